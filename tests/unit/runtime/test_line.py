"""A line: in order, bounded, served by one thread, and emptied at the end."""

from __future__ import annotations

import threading

import pytest

from llmguard.runtime.line import Line


def test_items_are_served_in_their_order_by_one_thread_and_no_thread_stands_by_before() -> None:
    served: list[tuple[int, str]] = []
    line: Line[int] = Line("test-line", lambda item: served.append((item, threading.current_thread().name)))
    assert "test-line" not in {thread.name for thread in threading.enumerate()}
    for item in range(100):
        line.put(item)
    assert line.stop(10)
    assert served == [(item, "test-line") for item in range(100)]


def test_what_finds_the_line_full_is_counted_and_its_caller_does_not_wait() -> None:
    begun, gate = threading.Event(), threading.Event()
    served: list[int] = []

    def serve(item: int) -> None:
        begun.set()
        gate.wait(10)
        served.append(item)

    line = Line("test-line", serve, size=3)
    line.put(0)
    assert begun.wait(10)
    for item in range(1, 10):
        line.put(item)
    assert (line.waiting, line.dropped) == (3, 6)
    assert line.stop(0) is False
    gate.set()
    assert line.stop(10)
    assert served == [0, 1, 2, 3]
    line.put(11)
    assert line.dropped == 7


def test_many_threads_put_into_one_line() -> None:
    served: list[int] = []
    line: Line[int] = Line("test-line", served.append, size=10_000)
    threads = [threading.Thread(target=lambda: [line.put(n) for n in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert line.stop(10)
    assert (sorted(served), line.dropped) == (sorted(list(range(500)) * 8), 0)


def test_an_item_that_cannot_be_served_does_not_take_others_along(caplog: pytest.LogCaptureFixture) -> None:
    served: list[int] = []

    def serve(item: int) -> None:
        served.append(10 // item)

    line = Line("test-line", serve)
    for item in (5, 0, 2):
        line.put(item)
    assert line.stop(10)
    assert served == [2, 5]
    assert "a defect in test-line" in caplog.text


def test_a_line_that_was_never_used_ends_at_once() -> None:
    assert Line("test-line", print).stop(0)
