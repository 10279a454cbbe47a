"""A budget must not refuse ordinary work: calls that name no maximum, on a model that could write 128,000 tokens."""

from __future__ import annotations

from random import Random

from llmguard.core.moves import Admitted, Charge, Denied, Hold, Reserve, Settle
from tests.support.book import LEASE, Store

NANO = 10**9
OUTPUT = 15_000  # nano-USD a token: $15 a million
INPUT = 3_000
MODEL_MAXIMUM = 128_000
NEWCOMER = 1_024  # expected output before there are 20 samples


def call(rid: str, dollars: int, expected: int = NEWCOMER, prompt: int = 500) -> Reserve:
    limit = dollars * NANO
    bucket = Hold(
        "usd|hour", limit, limit * 11 // 10, prompt * INPUT + expected * OUTPUT, prompt * INPUT, per_output=OUTPUT
    )
    return Reserve(rid, "p", LEASE, (bucket,), max_output=MODEL_MAXIMUM, floor=max(4 * expected, 1_024))


def admitted_in_parallel(dollars: int, calls: int) -> int:
    store = Store()
    answers = [store.apply(call(f"{number:04}", dollars)) for number in range(calls)]
    return sum(isinstance(answer, Admitted) for answer in answers)


def test_a_hundred_parallel_calls_fit_into_50_dollars() -> None:
    assert admitted_in_parallel(50, 100) == 100


def test_twenty_parallel_calls_fit_into_2_dollars() -> None:
    assert admitted_in_parallel(2, 20) == 20


def test_one_dollar_is_nearly_used_up_before_it_refuses_for_good() -> None:
    random = Random(7)
    store = Store()
    spent = 0
    for number in range(10_000):
        expected = NEWCOMER if number < 20 else 700
        answer = store.apply(call(f"{number:05}", 1, expected, prompt=random.randrange(100, 900)))
        if isinstance(answer, Denied):
            assert answer.why in ("insufficient", "spent")
            break
        cost = random.randrange(100, 900) * INPUT + random.randrange(20, 700) * OUTPUT
        store.apply(Settle(f"{number:05}", 3, store.now, (Charge("usd|hour", cost),)))
        spent += cost
    assert 0.85 * NANO <= spent <= 1.1 * NANO
