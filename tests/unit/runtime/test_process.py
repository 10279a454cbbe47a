"""The service of one process: how it starts, what runs beside its calls, and how it ends whatever hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.call import Attribution, Caller
from llmguard.core.decision import Admit
from llmguard.core.effects import Count, Emit
from llmguard.core.exchange import Ending
from llmguard.core.moves import Answer, Assert, Done, Move, Renew, Trip
from llmguard.core.runaway import Execution, TaskPolicy
from llmguard.core.runs import Peek
from llmguard.errors import LedgerUnavailable, TaskAborted
from llmguard.guard import Guard
from llmguard.runtime import process as module
from llmguard.runtime import threads, upkeep
from llmguard.runtime.blocking import BlockingMemoryLink
from llmguard.runtime.books import LedgerBooks
from llmguard.runtime.context import carrying, checkpoint, current
from llmguard.stores.memory import MemoryStore
from llmguard.tokens import Counter
from tests.support.process_calls import DIALECT, TOTAL, Process, config, cost
from tests.support.valkey import ValkeyServer

ME = Caller(team="search", feature="chat")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Process]:
    made = Process(Guard(config(tmp_path)))
    yield made
    made.guard.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background work every few milliseconds."""
    for name in ("HEARTBEAT", "RUN_HEARTBEAT", "KEYS", "COUNTS", "ADOPT", "RECONCILE", "RETRY"):
        monkeypatch.setattr(upkeep, name, 0.01)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


class Recorder(BlockingMemoryLink):
    """Keeps what it is asked and told, and gives one answer to every question."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(MemoryStore())
        self.answer = answer
        self.asked: list[Move] = []
        self.told: list[Move] = []

    def ask(self, move: Move) -> Answer:
        self.asked.append(move)
        return self.answer

    def tell(self, move: Move) -> None:
        self.told.append(move)

    def cold(self) -> bool:
        return False


# ---------------------------------------------------------------------- calls


def test_a_call_is_alive_from_enter_to_close_and_closed_once(world: Process) -> None:
    x = world.exchange(ME)
    assert world.service.live == {x.event_id: x}
    decision = world.service.run(x.open(x.now))
    assert isinstance(decision, Admit)
    world.answer(x, decision, 20)
    assert world.service.live == {}
    world.service.close(x, Ending.CALLER_GONE)
    world.guard.close()
    assert world.spent() == {"search": cost(20)}


def test_a_long_prompt_is_counted_in_another_thread_for_a_loop_and_here_for_a_thread(
    world: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = world.exchange(ME)
    x.call.prompt_bytes = 1 << 20
    here, seen = threading.get_ident(), []
    exactly = Counter.count

    def count(counter: Counter, model: str, texts: Any) -> int:
        seen.append(threading.get_ident() == here)
        return exactly(counter, model, texts)

    monkeypatch.setattr(Counter, "count", count)
    effect = Count(x.call, DIALECT, "gpt-4o")

    def steps() -> Any:
        return (yield effect)

    number = world.service.run(steps())
    assert asyncio.run(world.service.arun(steps())) == number
    assert seen == [True, False]
    effect.inline = True
    assert asyncio.run(world.service.arun(steps())) == -(-(1 << 20) // 3)
    world.service.close(x, Ending.CALLER_GONE)


def test_emits_of_many_threads_are_all_counted_and_written(world: Process) -> None:
    emit = Emit("refused", "rate_limited", Attribution(team="search"))
    threads = [threading.Thread(target=lambda: [world.service.perform(emit) for _ in range(500)]) for _ in range(4)]
    service = world.service
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.tally.events["refused", "rate_limited"] == 2_000
    world.guard.close()
    ledger = world.guard.ledger()
    report = ledger.report(["team"], 0, 1 << 45)
    ledger.close()
    assert report["total"]["refused"] == 2_000


# ---------------------------------------------------------------------- the start


def test_the_first_call_waits_for_the_store_to_be_loaded(world: Process) -> None:
    service = world.service
    assert isinstance(world.call(ME), Admit)
    assert service.not_ready() == []


def test_the_threads_of_a_service_work_for_nobody(world: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Caller] = []
    plain = LedgerBooks.prepare

    def prepare(books: LedgerBooks) -> Any:
        seen.append(current())
        return plain(books)

    monkeypatch.setattr(LedgerBooks, "prepare", prepare)
    threads.install("test")
    with carrying(ME):
        world.call(current())
    threads.remove("test")
    assert seen == [Caller()]


def test_a_ledger_that_hangs_at_the_start_keeps_the_first_calls_waiting_no_longer_than_it_may(
    world: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.2)
    go = threading.Event()
    plain = LedgerBooks.prepare
    monkeypatch.setattr(LedgerBooks, "prepare", lambda books: plain(books) if go.wait(30) else [])
    start = time.monotonic()
    world.call(ME)
    asyncio.run(world.acall(ME))
    assert 0.2 <= time.monotonic() - start < 5
    assert world.service.not_ready() == ["ledger: starting", "quota store: starting"]
    go.set()
    until(lambda: not world.service.not_ready())
    assert isinstance(world.call(ME), Admit)


@pytest.mark.usefixtures("quick")
def test_a_ledger_that_comes_later_is_taken_up(world: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    away, plain = [True], LedgerBooks.prepare

    def prepare(books: LedgerBooks) -> Any:
        if away:
            raise LedgerUnavailable("nobody listens there")
        return plain(books)

    monkeypatch.setattr(LedgerBooks, "prepare", prepare)
    world.call(ME)
    assert world.service.not_ready() == ["ledger: nobody listens there", "quota store: starting"]
    away.clear()
    until(lambda: not world.service.not_ready())


# ---------------------------------------------------------------------- beside the calls


def an_execution() -> Execution:
    return Execution(TaskPolicy(), "tasks.summarise", "t1", "task:t1:0", "run-1", "r1")


@pytest.mark.usefixtures("quick")
def test_calls_and_task_bodies_are_renewed_and_lost_calls_entered_again(world: Process) -> None:
    x = world.exchange(ME)
    assert isinstance(world.service.run(x.open(x.now)), Admit)
    service, plain = world.service, world.service.link
    service.runs.add(an_execution())
    recorder = service.link = Recorder(Done(0, True, gone=(x.event_id,)))
    until(lambda: any(isinstance(move, Assert) for move in list(recorder.told)))
    until(lambda: any(isinstance(move, Renew) and move.runs for move in list(recorder.asked)))
    renewals = [move for move in recorder.asked if isinstance(move, Renew)]
    assert {renewal.owner for renewal in renewals} == {service.owner}
    assert {(renewal.lease_ms, renewal.rids, renewal.runs) for renewal in renewals} == {
        (60_000, (x.event_id,), ()),
        (10_000, (), (("task:t1:0", "run-1"),)),
    }
    asserted = next(move for move in recorder.told if isinstance(move, Assert))
    assert {hold.name: hold.estimate for hold in asserted.holds} == {TOTAL + "search": x.estimate_nano}
    service.link = plain
    service.runs.clear()
    world.service.close(x, Ending.CALLER_GONE)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "scope"), [("task:t1:0", "task"), ("tree:r1", "tree"), ("name:tasks.summarise", "name"), ("tree:r2", None)]
)
def test_a_body_that_makes_no_calls_hears_that_it_was_stopped_from_elsewhere(
    world: Process, name: str, scope: str | None
) -> None:
    run, service = an_execution(), world.service
    assert isinstance(world.call(ME), Admit)
    service.ask(Trip(name, 0))
    asked, plain = [], service.link.ask

    def ask(move: Move) -> Answer:
        asked.append(type(move))
        return plain(move)

    service.link.ask = ask  # type: ignore[method-assign]
    service.runs.add(run)
    until(lambda: asked.count(Peek) > 2)
    if scope is None:
        assert run.trip is None
    else:
        assert run.trip is not None
        assert (run.trip.scope, run.trip.name, run.trip.task_id) == (scope, name, "t1")
        with carrying(Caller(execution=run)), pytest.raises(TaskAborted):
            checkpoint()
    service.runs.clear()


def test_what_is_told_is_flushed_without_waiting_for_the_next_round(
    world: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "RETRY", 600.0)
    flushed = threading.Event()

    class Slow(Recorder):
        def tell(self, move: Move) -> None:
            self.hurry()

        def flush(self) -> None:
            flushed.set()

    service = world.service
    world.call(ME)
    link = service.link = Slow(Done(0, True))
    link.hurry = service._hurry
    service.tell([Renew("me", 1, ())])
    assert flushed.wait(10)


@pytest.mark.usefixtures("quick")
def test_one_of_several_processes_reconciles_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    plain = LedgerBooks.recent

    def recent(books: LedgerBooks) -> Any:
        looks.append(id(books))
        return plain(books)

    monkeypatch.setattr(LedgerBooks, "recent", recent)
    with ValkeyServer() as server:
        worlds = [Process(Guard(config(tmp_path, server.tcp_url))) for _ in range(3)]
        for world in worlds:
            assert isinstance(world.call(ME), Admit)
        until(lambda: len(looks) > 20)
        for world in worlds:
            world.guard.close()
    assert len(set(looks)) == 1


@pytest.mark.usefixtures("quick")
def test_a_defect_in_one_piece_of_work_ends_neither_it_nor_the_others(
    world: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def recent(books: LedgerBooks) -> Any:
        calls.append(1)
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(LedgerBooks, "recent", recent)
    world.call(ME)
    until(lambda: len(calls) > 3)
    assert isinstance(world.call(ME), Admit)
    assert caplog.text.count("reconcile: a defect: ZeroDivisionError('oops')") == 1


# ---------------------------------------------------------------------- the end


def test_calls_that_still_run_at_the_end_are_recorded_as_they_stand(world: Process) -> None:
    sent, held = world.exchange(ME), world.exchange(ME)
    for x in (sent, held):
        assert isinstance(world.service.run(x.open(x.now)), Admit)
    world.service.perform(sent.dispatch())
    link = world.service.link
    world.guard.close()
    assert world.spent() == {"search": sent.estimate_nano}
    assert held.cost is None
    found = link.levels([TOTAL + "search"])
    assert found is not None
    level = found[TOTAL + "search"]
    assert (level.settled, level.held, level.exposure) == (sent.estimate_nano, 0, 0)


def test_a_ledger_that_hangs_holds_up_the_end_only_so_long(world: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    service = world.service
    world.call(ME)
    go, hanging = threading.Event(), threading.Event()

    def adopt(books: LedgerBooks) -> list[Any]:
        hanging.set()
        go.wait(30)
        return []

    monkeypatch.setattr(LedgerBooks, "adopt", adopt)
    service._ledger_thread.hurry(service.adopt)
    assert hanging.wait(10)
    start = time.monotonic()
    service.stop(0.3)
    assert time.monotonic() - start < 5
    go.set()
    assert service._ledger_thread.stop(10)


def test_stopping_twice_is_stopping_once(world: Process) -> None:
    service = world.service
    world.call(ME)
    service.stop()
    service.stop()
    assert world.guard.process() is not service
