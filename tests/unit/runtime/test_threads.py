"""The caller in plain threads and pools, and the wrappers that bring it there."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmguard.runtime import threads
from llmguard.runtime.context import context, current


@pytest.fixture
def carried() -> Iterator[None]:
    others = list(threads._users)  # guarded applications of other tests in this process
    for user in others:
        threads.remove(user)
    threads.install("test")
    yield
    threads.remove("test")
    assert threading.Thread.start is threads._start
    assert ThreadPoolExecutor.submit is threads._submit
    for user in others:
        threads.install(user)


def team() -> str | None:
    return current().team


def in_a_thread() -> str | None:
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(team()))
    thread.start()
    thread.join(10)
    return seen[0]


@pytest.mark.usefixtures("carried")
def test_a_thread_calls_for_whoever_started_it() -> None:
    assert in_a_thread() is None
    with context(team="search"):
        assert in_a_thread() == "search"


@pytest.mark.usefixtures("carried")
def test_a_thread_with_a_run_of_its_own_and_a_timer_do_too() -> None:
    seen: list[str | None] = []

    class Own(threading.Thread):
        def run(self) -> None:
            seen.append(team())

    with context(team="search"):
        for thread in (Own(), threading.Timer(0.0, lambda: seen.append(team()))):
            thread.start()
            thread.join(10)
    assert seen == ["search", "search"]


@pytest.mark.usefixtures("carried")
def test_a_pool_calls_for_whoever_submitted_not_for_whoever_started_its_threads() -> None:
    with ThreadPoolExecutor(1) as pool:
        with context(team="first"):
            assert pool.submit(team).result(10) == "first"
        assert pool.submit(team).result(10) is None
        for number in range(20):
            with context(team=f"t{number}"):
                assert list(pool.map(lambda _: team(), range(2))) == [f"t{number}"] * 2


@pytest.mark.usefixtures("carried")
def test_an_executor_of_a_loop_calls_for_the_coroutine() -> None:
    async def main() -> list[str | None]:
        loop = asyncio.get_running_loop()
        with context(team="search"):
            return [await loop.run_in_executor(None, team), await asyncio.to_thread(team)]

    assert asyncio.run(main()) == ["search", "search"]


@pytest.mark.usefixtures("carried")
def test_a_thread_that_outlives_the_scope_stays_in_it() -> None:
    go, seen = threading.Event(), []

    def late() -> None:
        go.wait(10)
        with context(feature="late"):
            pass
        seen.append(team())

    with context(team="search"):
        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    thread.join(10)
    assert seen == ["search"]


@pytest.mark.usefixtures("carried")
def test_a_finished_thread_keeps_nothing_alive() -> None:
    with context(team="search"):
        thread = threading.Thread(target=team)
        thread.start()
        thread.join(10)
    gone = weakref.ref(thread)
    gc.disable()
    try:
        del thread
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("carried")
def test_a_thread_cannot_be_started_twice_as_ever() -> None:
    with context(team="search"):
        thread = threading.Thread(target=team)
        thread.start()
        thread.join(10)
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
    assert "run" not in vars(thread)


def test_installing_again_changes_nothing_and_the_last_user_takes_it_off() -> None:
    threads.install("celery")
    once = threading.Thread.start
    threads.install("celery")
    threads.install("instrument")
    threads.remove("celery")
    assert threading.Thread.start is once
    with context(team="search"):
        assert in_a_thread() == "search"
    threads.remove("instrument")
    assert threading.Thread.start is threads._start
    with context(team="search"):
        assert in_a_thread() is None


def test_a_wrapper_around_ours_is_left_in_place_and_ours_is_silent_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.install("test")
    ours = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: ours(self))
    theirs = threading.Thread.start
    threads.remove("test")
    assert threading.Thread.start is theirs
    with context(team="search"):
        assert in_a_thread() is None
        threads.install("test")
        assert in_a_thread() == "search"
    monkeypatch.undo()
    threads.remove("test")
    assert threading.Thread.start is threads._start
