"""Counts for the ledger and for metrics."""

from __future__ import annotations

from llmguard.core.call import Attribution
from llmguard.core.effects import Emit
from llmguard.runtime.tally import Tally

WHO = Attribution(team="search", env="prod", feature="chat")


def test_refusals_are_counted_by_minute_and_attribution_and_closed_calls_only_as_events() -> None:
    tally = Tally()
    for _ in range(3):
        tally.note(Emit("refused", "budget_exceeded", WHO))
    tally.note(Emit("cut", "budget_contended", WHO))
    tally.note(Emit("closed", "done", WHO))
    counts = {key[1:]: number for key, number in tally.take().items()}
    assert counts == {
        ("default", "search", "prod", "chat", "budget_exceeded"): 3,
        ("default", "search", "prod", "chat", "budget_contended"): 1,
    }
    assert tally.events == {("refused", "budget_exceeded"): 3, ("cut", "budget_contended"): 1, ("closed", "done"): 1}


def test_a_minute_is_a_whole_one() -> None:
    tally = Tally()
    tally.note(Emit("refused", "rate_limited", WHO))
    ((minute, *_),) = tally.take()
    assert minute % 60_000 == 0


def test_what_is_taken_is_gone_and_what_is_given_back_is_counted_with_the_rest() -> None:
    tally = Tally()
    tally.note(Emit("refused", "rate_limited", WHO))
    taken = tally.take()
    assert not tally.take()
    tally.note(Emit("refused", "rate_limited", WHO))
    tally.give_back(taken)
    assert sum(tally.take().values()) == 2
