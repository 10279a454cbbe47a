"""How a run of a task asks for its entry, and what it makes of the answers of the store's reference."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.core.call import Caller
from llmguard.core.entries import Heard, entry, hear, trip_until, tripped
from llmguard.core.limits import Book
from llmguard.core.moves import Trip
from llmguard.core.runaway import KEEP_TRIPS_MS, RULES, Execution, TaskPolicy
from llmguard.core.runs import Enter, Entered, Leave

NOW = 1_000_000
WHO = Caller(team="growth", feature="summaries")


def run(number: int = 0, task: str = "t-1", **policy: Any) -> Execution:
    made = TaskPolicy(**policy)
    return Execution(made, "tasks.summarise", task, f"task:{task}:0", f"run-{number}", "tree-1", 3)


def ask(book: Book, execution: Execution, *, lease_ms: int = 60_000, **what: Any) -> tuple[Enter, Entered, Heard]:
    move = entry(execution, lease_ms, **{"max_paid": 2} | what)
    (answer,) = book.apply([move], NOW)
    assert isinstance(answer, Entered)
    return move, answer, hear(execution, WHO, move, answer)


def fail(book: Book, execution: Execution) -> None:
    book.apply([Leave(execution.key, execution.run_id, f"name:{execution.name}", False, True, False)], NOW)


def test_a_run_enters() -> None:
    execution = run()
    _, answer, heard = ask(Book(), execution)
    assert (answer.verdict, heard) == ("go", Heard(None, []))
    assert (execution.entered, execution.attempts) == (True, 0)


@pytest.mark.parametrize("enforced", [True, False])
def test_paid_attempts(enforced: bool) -> None:
    book = Book()
    for number in range(2):
        earlier = run(number)
        ask(book, earlier)
        fail(book, earlier)
    execution = run(2, enforced=RULES if enforced else frozenset())
    _, answer, heard = ask(book, execution)
    note = heard.stop or heard.warned[0]
    assert (answer.verdict, heard.stop is not None) == (("paid", True) if enforced else ("go", False))
    assert (note.scope, note.name, note.rule) == ("task", "task:t-1:0", "max_paid_attempts")
    assert (note.limit, note.seen, note.unit, note.team, note.feature) == (2, 2, "paid attempts", "growth", "summaries")
    assert (execution.entered, execution.attempts) == (not enforced, 2)
    assert trip_until(note) == NOW + KEEP_TRIPS_MS
    assert bool(note.advice) is not enforced


def test_lost_runs() -> None:
    book = Book()
    for number in range(3):
        ask(book, run(number), lease_ms=0)
    heard = ask(book, run(3))[2]
    assert heard.stop is not None
    assert (heard.stop.rule, heard.stop.limit, heard.stop.seen) == ("max_redeliveries", 2, 3)


def test_tasks_of_a_tree_and_what_is_no_further_task() -> None:
    book = Book()
    assert ask(book, run(0, "a", max_tree_tasks=1))[2].stop is None
    assert ask(book, run(1, "b", max_tree_tasks=1), again=True)[2].stop is None
    stop = ask(book, run(2, "c", max_tree_tasks=1))[2].stop
    assert stop is not None
    assert (stop.scope, stop.name, stop.rule, stop.limit, stop.seen) == ("tree", "tree:tree-1", "max_tree_tasks", 1, 2)
    assert ask(book, run(3, "d", max_tree_tasks=1), aftermath=True)[2].stop is None


@pytest.mark.parametrize(
    ("name", "scope"), [("task:t-1:0", "task"), ("tree:tree-1", "tree"), ("name:tasks.summarise", "name")]
)
def test_trips_of_others(name: str, scope: str) -> None:
    book = Book()
    book.epoch = 1
    book.apply([Trip(name)], NOW)
    stop = ask(book, run())[2].stop
    assert stop is not None
    assert (stop.rule, stop.scope, stop.name) == ("trip", scope, name)
    assert trip_until(stop) is None
    assert ask(book, run(1, enforced=frozenset()))[1].verdict == "go"


def test_what_a_stopped_task_leaves_behind_runs_in_a_tripped_tree() -> None:
    book = Book()
    book.epoch = 1
    book.apply([Trip("tree:tree-1")], NOW)
    assert ask(book, run(), aftermath=True)[1].verdict == "go"


def test_duplicates_are_the_askers_to_deal_with() -> None:
    book = Book()
    ask(book, run(0))
    _, answer, heard = ask(book, run(1), duplicates=("done", "running"))
    assert (answer.verdict, heard) == ("running", Heard(None, []))
    _, answer, heard = ask(book, run(2))
    assert (answer.verdict, heard) == ("go", Heard(None, []))


def test_only_retries_after_a_paid_run_are_counted_as_such() -> None:
    assert entry(run(), 1, max_paid=2, again=True).is_retry is False
    assert entry(run(), 1, max_paid=2, again=True, after_paid=True).is_retry is True


def test_a_note_says_what_the_run_has_cost() -> None:
    execution = run()
    execution.spent_nano = 5
    note = tripped(execution, Caller(), "max_runtime", limit=1_800, seen=1_800, at=NOW, unit="seconds")
    assert (note.cost_nano, note.team, note.task_id, note.tree_id) == (5, "unattributed", "t-1", "tree-1")
