"""After how many refusals a task is aborted, and how late it hears the rest."""

from __future__ import annotations

import asyncio

from llmguard.core.runaway import Execution, TaskPolicy
from llmguard.integrations.httpx.aborts import aborted, delay


def refused(times: int, policy: TaskPolicy | None = None) -> Execution:
    return Execution(policy or TaskPolicy(), "tasks.summarise", "t-1", "task:t-1:0", "r-1", "t-1", refusals=times)


def test_three_refusals_are_told_and_the_fourth_aborts() -> None:
    assert [aborted(refused(times), "no money") is not None for times in range(1, 6)] == [False] * 3 + [True] * 2
    assert str(aborted(refused(4), "no money")) == "tasks.summarise[t-1] went on after 3 refusals: no money"


def test_an_aborted_execution_is_marked_with_the_coroutine_that_heard_of_it() -> None:
    execution = refused(4)

    async def main() -> None:
        aborted(execution, "no money")
        assert execution.told == {asyncio.current_task()}

    asyncio.run(main())
    assert execution.aborted
    told_in_a_thread = refused(4)
    aborted(told_in_a_thread, "no money")
    assert (told_in_a_thread.aborted, told_in_a_thread.told) == (True, set())


def test_a_task_that_is_not_watched_is_never_aborted() -> None:
    execution = refused(9, TaskPolicy(mode="off"))
    assert aborted(execution, "no money") is None
    assert not execution.aborted


def test_whoever_swallows_the_abort_hears_each_further_one_later_and_never_later_than_two_seconds() -> None:
    assert [delay(refused(times)) for times in range(1, 11)] == [0.0] * 4 + [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert delay(refused(10_000)) == 2.0
