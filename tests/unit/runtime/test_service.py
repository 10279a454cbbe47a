"""What runs beside the calls: readiness, leases, keys, counts, adoption, reconciliation, the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.call import Attribution, Call, Principal
from llmguard.core.effects import Emit
from llmguard.core.exchange import Ending, Exchange, Pipeline
from llmguard.core.moves import Again, Answer, Assert, Done, Move, Renew, Settle, Trip
from llmguard.errors import LedgerUnavailable, StoreUnavailable
from llmguard.guard import Guard
from llmguard.providers import registry
from llmguard.runtime import upkeep as module
from llmguard.runtime.ids import uuid7
from llmguard.runtime.links import MemoryLink
from llmguard.runtime.service import Service
from llmguard.runtime.upkeep import Work
from llmguard.stores.memory import MemoryStore
from llmguard.tokens import encodings

CHAT = "/v1/chat/completions"


def configured(home: Path) -> Guard:
    return Guard(
        {
            "ledger": f"sqlite:///{home / 'ledger.db'}",
            "spool": {"path": str(home / "spool")},
            "providers": {"sandbox": {"dialect": "sandbox"}},
            "budgets": [{"name": "team", "scope": {"team": "*"}, "limit": "$10", "window": "total"}],
        }
    )


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[tuple[Guard, Service]]:
    guard = configured(home)
    service = await guard.service()
    try:
        yield guard, service
    finally:
        await service.stop(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background work every few milliseconds."""
    for name in ("HEARTBEAT", "KEYS", "COUNTS", "ADOPT", "RECONCILE", "RETRY"):
        monkeypatch.setattr(module, name, 0.01)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def admitted(guard: Guard, service: Service) -> Exchange:
    """A call that holds money and has not been sent."""
    with closing(guard.ledger()) as ledger:
        _, key = ledger.keys.create("search", "prod", "chat")
    call = Call(
        "openai_chat", "openai", CHAT, "POST", CHAT, "", {}, b"{}", "sandbox/echo", prompt_bytes=40, max_tokens=100,
        doc={"messages": [{"role": "user", "content": "Hi"}]},
    )  # fmt: skip
    stages = Pipeline(guard.stages(service.owner))
    dialect = registry.dialect("openai_chat", "openai")
    x = Exchange(call, dialect, stages, event_id=uuid7(), secret=key, now=service.runtime.now())
    service.runtime.enter(x)
    await service.runtime.run(x.open(x.now))
    assert x.reserved
    return x


class Recorder(MemoryLink):
    """Keeps what it is told, and gives one answer to every question; it is always this process's turn."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(MemoryStore())
        self.answer = answer
        self.asked: list[Move] = []
        self.told: list[Move] = []
        self.missing: list[str] | None = None

    def ask(self, move: Move) -> Answer:
        if isinstance(move, Trip) and move.name == "turn:reconcile":
            return Done(0, True)
        self.asked.append(move)
        return self.answer

    def tell(self, move: Move) -> None:
        self.told.append(move)

    async def cold(self) -> bool:
        return False

    async def unknown(self, rids: Any) -> list[str]:
        return list(rids) if self.missing is None else self.missing


# ---------------------------------------------------------------------- readiness


def test_a_service_is_ready_when_its_start_returns_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (_, service):
            assert service.not_ready() == []
        assert list((tmp_path / "spool").iterdir() if (tmp_path / "spool").exists() else ()) == []

    run(work())


def test_a_service_starts_without_its_ledger_and_is_ready_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        away = True
        plain = module.LedgerBooks.prepare

        def prepare(books: Any) -> Any:
            if away:
                raise LedgerUnavailable("nobody listens there")
            return plain(books)

        monkeypatch.setattr(module.LedgerBooks, "prepare", prepare)
        async with serving(tmp_path) as (_, service):
            assert service.not_ready() == ["ledger: nobody listens there", "quota store: starting"]
            away = False
            await until(lambda: not service.not_ready())

    run(work())


def test_a_store_that_is_away_is_said_so_until_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (_, service):
            plain = service.link.cold

            async def away() -> bool:
                raise StoreUnavailable("silent")

            monkeypatch.setattr(service.link, "cold", away)
            await until(lambda: service.not_ready() == ["quota store: silent"])
            monkeypatch.setattr(service.link, "cold", plain)
            await until(lambda: not service.not_ready())

    run(work())


def test_the_tokenizer_is_loaded_before_calls_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[Any, Any] = {}
    monkeypatch.setattr(encodings, "_loaded", loaded)

    async def work() -> None:
        async with serving(tmp_path):
            assert set(loaded) == {"o200k_base"}

    run(work())


# ---------------------------------------------------------------------- leases


@pytest.mark.parametrize(
    ("answer", "entered"),
    [(Done(0, True), False), (Done(0, True, gone=("it",)), True), (Again(0, "cold"), True)],
    ids=["all known", "one is lost", "all are lost"],
)
def test_running_calls_are_renewed_and_entered_again_where_the_store_lost_them(
    tmp_path: Path, answer: Answer, entered: bool
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (guard, service):
            x = await admitted(guard, service)
            plain = service.link
            if isinstance(answer, Done) and answer.gone:
                answer.gone = (x.event_id,)
            recorder = service.link = Recorder(answer)
            await until(lambda: len([move for move in recorder.asked if isinstance(move, Renew)]) > 1)
            renewal = next(move for move in recorder.asked if isinstance(move, Renew))
            assert (renewal.owner, renewal.rids) == (service.owner, (x.event_id,))
            asserted = [move for move in recorder.told if isinstance(move, Assert)]
            assert bool(asserted) is entered
            if entered:
                assert asserted[0].rid == x.event_id
                assert asserted[0].max_output == 100
                assert {hold.name: hold.estimate for hold in asserted[0].holds} == {
                    "usd|total|0|team=search": x.estimate_nano
                }
            service.link = plain
            service.runtime.close(x, Ending.CALLER_GONE)

    run(work())


def test_without_running_calls_nothing_is_renewed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (_, service):
            recorder = service.link = Recorder(Done(0, True))
            await asyncio.sleep(0.05)
            assert not [move for move in recorder.asked if isinstance(move, Renew)]

    run(work())


# ---------------------------------------------------------------------- keys, counts, sums


def test_a_revoked_key_is_heard_of(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (guard, service):
            verify = service._keyring.verify

            async def verdict(text: str) -> Any:
                found = verify(text)
                return await found if isinstance(found, Awaitable) else found

            with closing(guard.ledger()) as ledger:
                key, text = ledger.keys.create("search", "prod", "chat")
                assert isinstance(await verdict(text), Principal)
                ledger.keys.revoke(key.id)
            async with asyncio.timeout(10):
                while await verdict(text) != "revoked":
                    await asyncio.sleep(0.005)

    run(work())


def test_refusals_are_written_and_kept_while_the_ledger_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (_, service):
            tries, away, written = 0, True, 0
            plain = module.LedgerBooks.count_refusals

            def count(books: Any, counts: Any) -> None:
                nonlocal tries, written
                tries += 1
                if away:
                    raise LedgerUnavailable("away")
                plain(books, counts)
                written += sum(counts.values())

            monkeypatch.setattr(module.LedgerBooks, "count_refusals", count)
            for _ in range(3):
                service.tally.note(Emit("refused", "rate_limited", Attribution()))
            await until(lambda: tries > 2)
            away = False
            await until(lambda: written == 3)

    run(work())


def test_what_the_store_did_not_hear_is_settled_again_and_counted_as_drift(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (guard, service):
            x = await admitted(guard, service)
            service.runtime.perform(x.dispatch())
            service.runtime.close(x, Ending.UPSTREAM_FAILED)
            recorder = service.link = Recorder(Done(0, True))
            await until(lambda: service.drift == 1)
            move = next(move for move in recorder.told if isinstance(move, Settle))
            assert x.cost is not None
            assert move.rid == x.event_id
            assert [(charge.name, charge.amount) for charge in move.charges] == [
                ("usd|total|0|team=search", x.cost.total)
            ]
            recorder.missing = []
            await until(lambda: service.drift == 0)

    run(work())
    assert "had not heard of 1 settled calls" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_store_and_ledger_that_stay_apart_are_an_alert_of_the_process_that_tells_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: bool
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (guard, service):
            x = await admitted(guard, service)
            service.runtime.perform(x.dispatch())
            service.runtime.close(x, Ending.UPSTREAM_FAILED)
            recorder = service.link = Recorder(Done(0, first))
            await until(lambda: any(isinstance(move, Trip) for move in recorder.asked))
            told = next(move for move in recorder.asked if isinstance(move, Trip))
            assert told.name == "told:drift"
            assert x.event_id in [move.rid for move in recorder.told if isinstance(move, Settle)]
            await until(lambda: service.drift == 1)

    run(work())
    assert ("quota store and ledger stay apart: 1 calls had to be settled again" in caplog.text) is first


# ---------------------------------------------------------------------- what goes wrong


def test_trouble_is_said_once_and_when_it_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (_, service):
            troubles = [StoreUnavailable("silent")] * 3 + [None] * 2

            def _fetch_something() -> Work:
                yield None
                trouble = troubles.pop(0)
                if trouble is not None:
                    raise trouble

            while troubles:
                await service._quietly(_fetch_something)

    run(work())
    said = [record.message for record in caplog.records if "fetch something" in record.message]
    assert said == ["fetch something: silent", "fetch something: well again"]


def test_a_defect_in_one_piece_of_work_ends_neither_it_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def work() -> None:
        calls = 0

        def renew(service: Service) -> Work:
            nonlocal calls
            yield None
            calls += 1
            raise ZeroDivisionError("oops")

        monkeypatch.setattr(Service, "renew", renew)
        async with serving(tmp_path) as (_, service):
            await until(lambda: calls > 2)
            assert all(not task.done() for task in service._tasks)

    run(work())
    assert "a defect in renew" in caplog.text
    assert "ZeroDivisionError: oops" in caplog.text


# ---------------------------------------------------------------------- the end


def test_calls_that_do_not_end_are_recorded_as_they_stand(tmp_path: Path) -> None:
    """One that was sent is charged, one that was not is released; the spool is empty afterwards."""

    async def work() -> None:
        guard = configured(tmp_path)
        service = await guard.service()
        link = service.link
        assert isinstance(link, MemoryLink)
        sent, held = await admitted(guard, service), await admitted(guard, service)
        service.runtime.perform(sent.dispatch())
        await service.stop(0.01)
        assert service.runtime.live == {}
        assert sent.cost is not None
        assert held.cost is None
        with guard.ledger().snapshot() as view:
            sums = view.sums("usd", 0, 0, by=["team"])
        assert sums == {("search",): sent.cost.total}
        balance = link._store.book.balances["usd|total|0|team=search"]
        assert (balance.settled, balance.held, balance.exposure) == (sent.cost.total, 0, 0)
        assert list((tmp_path / "spool").iterdir()) == []

    run(work())


def test_the_end_waits_for_running_calls(tmp_path: Path) -> None:
    async def work() -> None:
        guard = configured(tmp_path)
        service = await guard.service()
        x = await admitted(guard, service)
        stopping = asyncio.create_task(service.stop(10))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        service.runtime.close(x, Ending.CALLER_GONE)
        await stopping

    run(work())
