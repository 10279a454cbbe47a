"""No fork in the midst of a transaction on an SQLite file, and no connection open across one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmguard.ledger import engine as module
from llmguard.ledger import forks
from llmguard.ledger.engine import create_engine, reading, writing
from llmguard.ledger.forks import Gate


class Closer:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def fork(gate: Gate, over: threading.Event) -> threading.Thread:
    """What a fork does in the parent, in a thread of its own; the child is only thought of."""

    def work() -> None:
        gate._shut()
        over.set()
        gate._open()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_fork_waits_for_the_transactions_that_run() -> None:
    closer, over = Closer(), threading.Event()
    gate = Gate(closer)
    with gate:
        thread = fork(gate, over)
        assert not over.wait(0.05)
        with gate:  # one that began in the meantime is waited for, too
            pass
        assert closer.times == 0
    assert over.wait(10)
    thread.join(10)
    assert closer.times == 1
    with gate:
        pass


def test_no_transaction_begins_while_a_process_forks() -> None:
    gate, entered = Gate(lambda: None), threading.Event()

    def enter() -> None:
        with gate:
            entered.set()

    gate._shut()
    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.05)
    gate._open()
    assert entered.wait(10)
    thread.join(10)


def test_a_transaction_that_hangs_does_not_keep_a_process_from_forking_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forks, "_PATIENCE_S", 0.01)
    closer, over = Closer(), threading.Event()
    gate = Gate(closer)
    with gate:
        fork(gate, over).join(10)
        assert over.is_set()
        assert closer.times == 1


def test_a_child_begins_with_an_open_gate() -> None:
    gate = Gate(lambda: None)
    gate._shut()
    gate._renew()
    with gate:
        pass


def test_connections_to_sqlite_files_are_closed_for_a_fork_and_made_again(tmp_path: Path) -> None:
    made = create_engine(f"sqlite:///{tmp_path / 'l.db'}")
    with writing(made) as connection:
        connection.execute(sa.text("CREATE TABLE t (a)"))
    assert made.pool.checkedin() == 1  # type: ignore[attr-defined]
    module._gate._shut()
    assert made.pool.checkedin() == 0  # type: ignore[attr-defined]
    module._gate._open()
    with reading(made) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar() == 0
    made.dispose()
