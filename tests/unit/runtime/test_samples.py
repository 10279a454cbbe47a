"""`/metrics` of a process to which everything has happened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from llmguard.core.notes import ContextNote, TripNote
from llmguard.runtime.notices import Notices
from llmguard.runtime.samples import samples
from llmguard.runtime.service import Service
from llmguard.runtime.tally import Tally
from llmguard.sinks.prometheus import render
from tests.support.ledger import T0, sqlite_ledger


def numbers(service: Any) -> dict[str, float]:
    lines = render(samples(cast("Service", service))).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_trips_warnings_and_rows_are_counted(tmp_path: Path) -> None:
    with sqlite_ledger(tmp_path) as ledger:
        notices = Notices(ledger, [], "7-aa")
        for kind in ("tripped", "warned"):
            for number in range(2):
                notices.note(TripNote("task", f"task:{number}", "max_calls", 5, 6, T0, kind=kind))  # type: ignore[arg-type]
        notices.note(ContextNote("forged", "key k1", T0))
        assert notices.stop()
        empty = SimpleNamespace(live={}, owed=0, seq=0, shipped=0)
        service = SimpleNamespace(
            tally=Tally(),
            runtime=empty,
            link=empty,
            drift=0,
            spool=empty,
            shipper=empty,
            notices=notices,
            not_ready=list,
        )
        found = numbers(service)
    assert found['llmguard_trips_total{rule="max_calls"}'] == 2
    assert found['llmguard_warnings_total{rule="max_calls"}'] == 2
    assert found['llmguard_notice_rows_total{outcome="written"}'] == 3
    assert found["llmguard_notices_dropped_total"] == 0
