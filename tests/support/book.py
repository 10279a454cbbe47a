"""A warm lease table with a clock, and moves with ordinary values, for tests of its rows."""

from __future__ import annotations

from typing import Any

from llmguard.core.limits import Book
from llmguard.core.moves import Begin, Charge, Hold, Move, Open, Reserve, Settle, Turn

NOW = 1_800_000_000_000
HOUR = 3_600_000
LEASE = 60_000


def hold(estimate: int = 100, cap: int = 0, limit: int = 1_000, **fields: Any) -> Hold:
    values: dict[str, Any] = {"name": "usd|day", "ceiling": limit, "fixed": cap or estimate}
    return Hold(limit=limit, estimate=estimate, **(values | fields))


def reserve(rid: str, *holds: Hold, **fields: Any) -> Reserve:
    return Reserve(rid, fields.pop("owner", "p1"), LEASE, holds or (hold(),), **fields)


def settle(rid: str, amount: int, rev: int = 3, at: int = NOW, **fields: Any) -> Settle:
    return Settle(rid, rev, at, (Charge("usd|day", amount, **fields),))


class Store:
    """A warm book with a clock."""

    def __init__(self, grace_ms: int = 0) -> None:
        self.now = NOW
        self.book = Book()
        turn = self.apply(Begin(LEASE))
        assert isinstance(turn, Turn)
        self.apply(Open(turn.fence, grace_ms))

    def apply(self, move: Move) -> Any:
        return self.book.apply([move], self.now)[0]

    def pass_ms(self, ms: int) -> None:
        self.now += ms
        self.book.apply([], self.now)

    def level(self, name: str = "usd|day") -> tuple[int, int, int, int]:
        """settled, orphan, held, exposure"""
        balance = self.book.balance(name, self.now)
        return (balance.settled, balance.orphan, balance.held, balance.exposure) if balance else (0, 0, 0, 0)
