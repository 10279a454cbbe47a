"""The allowance in a file: kept over a restart, one for each process, whole again when the store is back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmguard.core.outage import OutageTerms
from llmguard.runtime.allowance import KeptAllowance

NOW = 1_800_000_000_000
LATER = NOW + 60_000
TERMS = OutageTerms(money_nano=1_000, calls=100)


def take(allowance: KeptAllowance, nano: int) -> str | None:
    return allowance.take(nano, NOW, background=False)


def test_a_restart_does_not_renew_it(tmp_path: Path) -> None:
    first = KeptAllowance(tmp_path, TERMS)
    assert take(first, 700) is None
    first.close()
    second = KeptAllowance(tmp_path, TERMS)
    assert take(second, 301) == "money"
    assert take(second, 300) is None
    second.close()


def test_processes_that_run_at_once_have_one_each(tmp_path: Path) -> None:
    both = [KeptAllowance(tmp_path, TERMS) for _ in range(2)]
    assert [take(allowance, 1_000) for allowance in both] == [None, None]
    for allowance in both:
        allowance.close()


def test_it_is_whole_again_when_the_store_was_back_also_for_those_that_died(tmp_path: Path) -> None:
    dead = KeptAllowance(tmp_path, TERMS)
    take(dead, 1_000)
    dead.close()
    fresh = KeptAllowance(tmp_path, TERMS)
    fresh.answered(LATER)
    assert take(fresh, 1_000) is None
    fresh.answered(LATER)
    assert take(fresh, 1_000) is None
    fresh.close()


def test_a_running_process_keeps_its_own_when_another_hears_from_the_store(tmp_path: Path) -> None:
    cut_off = KeptAllowance(tmp_path, TERMS)
    take(cut_off, 1_000)
    KeptAllowance(tmp_path, TERMS).answered(LATER)
    assert take(cut_off, 1) == "money"
    cut_off.close()


def test_without_room_on_disk_nothing_may_be_spent(tmp_path: Path) -> None:
    (tmp_path / ".outage").mkdir()
    (tmp_path / ".outage" / "0").symlink_to("/dev/full")
    allowance = KeptAllowance(tmp_path, TERMS)
    assert take(allowance, 1) == "money"
    allowance.close()


def test_a_forked_child_has_its_own(tmp_path: Path) -> None:
    parent = KeptAllowance(tmp_path, TERMS)
    take(parent, 1_000)
    child = os.fork()
    if child == 0:
        os._exit(0 if take(parent, 1_000) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert take(parent, 1) == "money"
    parent.close()


def test_nothing_is_spent_that_cannot_be_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool").write_text("a file where a directory should be")
    assert take(KeptAllowance(tmp_path / "spool", TERMS), 1) == "money"
    assert "nothing can be spent while the quota store is away" in caplog.text
