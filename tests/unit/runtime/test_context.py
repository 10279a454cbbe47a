"""Who is calling, in every kind of function, and that nobody else ever seems to be."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pytest

from llmguard.core.call import Caller
from llmguard.errors import TaskAborted
from llmguard.runtime.context import begin_as, carrying, checkpoint, context, current


@dataclass
class Execution:
    """What of an execution the context looks at."""

    name: str = "tasks.summarise"
    task_id: str = "t1"
    trip: object | None = None
    ended: bool = False


def team() -> str | None:
    return current().team


def test_scopes_nest_and_what_is_left_out_stays() -> None:
    assert current() == Caller()
    with context(team="search", env="prod", feature="chat"):
        with context(feature="adhoc", samples=20):
            assert current() == Caller(team="search", env="prod", feature="adhoc", samples=20)
        assert current() == Caller(team="search", env="prod", feature="chat")
    assert current() == Caller()


def test_a_scope_is_left_by_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), context(team="search"):
        raise ZeroDivisionError
    assert team() is None


def test_one_scope_may_be_entered_within_itself_and_by_many_threads() -> None:
    scope = context(team="search")
    barrier = threading.Barrier(4)

    def enter() -> list[str | None]:
        seen = []
        with scope:
            barrier.wait(10)
            with scope:
                seen.append(team())
            barrier.wait(10)
            seen.append(team())
        return [*seen, team()]

    with ThreadPoolExecutor(4) as pool:
        assert [f.result(10) for f in [pool.submit(enter) for _ in range(4)]] == [["search", "search", None]] * 4


def test_it_decorates_functions_coroutines_and_generators_of_both_kinds() -> None:
    @context(team="f")
    def plain() -> str | None:
        return team()

    @context(team="c")
    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return team()

    @context(team="g")
    def generator() -> Iterator[str | None]:
        yield team()
        yield team()

    @context(team="a")
    async def stream() -> AsyncIterator[str | None]:
        yield team()
        await asyncio.sleep(0)
        yield team()

    async def both() -> list[Any]:
        seen: list[Any] = [await coroutine()]
        async for step in stream():
            seen += [step, team()]
        return seen

    assert plain.__name__ == "plain"
    assert plain() == "f"
    assert [(step, team()) for step in generator()] == [("g", None), ("g", None)]
    assert asyncio.run(both()) == ["c", "a", None, "a", None]


def test_a_decorated_generator_takes_values_and_errors_and_is_closed_in_its_scope() -> None:
    ends: list[str | None] = []

    @context(team="g")
    def echo() -> Iterator[Any]:
        heard = None
        try:
            while True:
                try:
                    heard = yield heard
                except KeyError as error:
                    heard = error.args[0], team()
        finally:
            ends.append(team())

    steps = cast("Any", echo())
    assert next(steps) is None
    assert steps.send(1) == 1
    assert steps.throw(KeyError("k")) == ("k", "g")
    steps.close()
    assert ends == ["g"]


def test_tasks_and_to_thread_inherit_and_do_not_hand_back() -> None:
    async def child() -> str | None:
        with context(team="child"):
            await asyncio.sleep(0)
            return team()

    async def main() -> list[Any]:
        async with context(team="parent"):
            one = asyncio.create_task(child())
            two = asyncio.create_task(asyncio.to_thread(team))
            return [await one, await two, team()]

    assert asyncio.run(main()) == ["child", "parent", "parent"]


def test_a_hundred_tasks_at_once_keep_apart() -> None:
    async def work(number: int) -> bool:
        with context(team=f"t{number}"):
            for _ in range(5):
                await asyncio.sleep(0)
                if team() != f"t{number}":
                    return False
        return team() is None

    async def main() -> list[bool]:
        return await asyncio.gather(*[work(number) for number in range(100)])

    assert all(asyncio.run(main()))


def test_a_scope_that_ends_in_another_context_takes_nothing_from_it() -> None:
    """As a generator that is finished by somebody else does."""
    scope = context(team="elsewhere")
    contextvars.copy_context().run(scope.__enter__)
    with context(team="here"):
        scope.__exit__(None, None, None)
        assert team() == "here"


def test_a_door_sets_the_whole_caller() -> None:
    whole = Caller(team="growth", task_id="t", tree_id="r", depth=2)
    with context(team="search", feature="chat"), carrying(whole):
        assert current() == whole


@pytest.mark.parametrize("name", ["team", "env", "feature", "end_user"])
@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", 7])
def test_what_is_no_name_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}=.*: write 1 to 128 printable characters"):
        context(**{name: value})


def test_no_samples_make_no_sense() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        context(samples=0)


# ---------------------------------------------------------------------- executions


def test_an_inherited_execution_that_has_ended_counts_for_its_tree_only() -> None:
    execution = Execution()
    caller = Caller(team="growth", task_id="t1", tree_id="r", execution=execution)  # type: ignore[arg-type]
    with carrying(caller):
        assert current() is caller
        execution.ended = True
        assert current() == Caller(team="growth", tree_id="r", left=execution)  # type: ignore[arg-type]


def test_a_checkpoint_ends_a_stopped_task_and_nothing_else() -> None:
    checkpoint()
    execution = Execution()
    with carrying(Caller(execution=execution)):  # type: ignore[arg-type]
        checkpoint()
        execution.trip = object()
        with pytest.raises(TaskAborted, match=r"tasks\.summarise\[t1\] was stopped by the runaway guard"):
            checkpoint()
        assert not issubclass(TaskAborted, Exception)


def test_what_a_stopped_task_leaves_running_stays_stopped() -> None:
    execution = Execution()
    caller = Caller(task_id="t1", tree_id="r", execution=execution)  # type: ignore[arg-type]
    with carrying(caller):
        execution.trip, execution.ended = object(), True
        assert current() is caller
        with pytest.raises(TaskAborted):
            checkpoint()


def test_who_begins_a_body_is_asked_when_it_matters_and_stays_inside() -> None:
    asked: list[int] = []

    def tell() -> Caller:
        asked.append(1)
        return Caller(team="search", feature="chat")

    assert begin_as(tell, lambda: 7) == 7
    assert asked == []
    assert begin_as(tell, lambda: current().team) == "search"

    def within() -> tuple[str | None, str | None]:
        with context(feature="ranking") as caller:
            return caller.team, current().feature

    assert begin_as(tell, within) == ("search", "ranking")
    assert current().team is None
