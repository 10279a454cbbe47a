"""Sizes as people write them: `$0.50`, `2M tokens`, `600/minute`, `50 concurrent`, `10MiB`, `15m`, `50%`.

Every parser takes what a file or a variable holds and returns integers, or raises :class:`Wrong`, which says what is
wrong with the value and what a right one looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from llmguard.core.money import nano_from_usd
from llmguard.core.rules import PPM, BudgetRule, LimitKind, Unit
from llmguard.core.windows import Window

_NUMBER = r"(\d[\d_,]*(?:\.\d+)?)"
_MONEY = re.compile(rf"\$\s*{_NUMBER}")
_TOKENS = re.compile(rf"{_NUMBER}\s*([kKMGB]?)\s*tokens?")
_PER_MILLION = re.compile(rf"\$\s*{_NUMBER}\s*/\s*(M|K|k)(?:\s*tokens)?")
_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d)")
_OFTEN = re.compile(r"(\d{1,9})\s*/\s*(\d.*)")
_BYTES = re.compile(r"(\d+)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%")
_CONCURRENT = re.compile(r"(\d[\d_,]*)\s*concurrent")
_TOKEN_RATE = re.compile(rf"({_NUMBER}\s*[kKMGB]?)\s*tokens?\s*(?:/|\bper\b)\s*(.+)")
_KEY_BUDGET = re.compile(r"(.+?)\s*/\s*(hour|day|week|month|total)")

_SCALE: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZES: Final = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FEMTO_PER_NANO_PER_MILLION: Final = {"M": 1, "K": 1_000, "k": 1_000}


class Wrong(ValueError):
    """A value that cannot be used. ``why`` completes "X is …"; ``fix`` says what to write instead."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(f"{why}; {fix}")
        self.why = why
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Amount:
    """What a budget allows: nano-USD (`usd`) or tokens."""

    unit: Unit
    number: int


@dataclass(frozen=True, slots=True)
class Rate:
    """What a limit allows: requests or tokens per ``period_ms``, or calls at once (period 0)."""

    kind: LimitKind
    number: int
    period_ms: int = 0


@dataclass(frozen=True, slots=True)
class Often:
    """How often something may happen: ``number`` times in ``period_ms``."""

    number: int
    period_ms: int


def _text(value: object, pattern: re.Pattern[str], why: str, fix: str) -> re.Match[str]:
    found = pattern.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise Wrong(why, fix)
    return found


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("_", ""))


def money(value: object) -> int:
    """`$0.50` in nano-USD."""
    found = _text(value, _MONEY, "not an amount of money", "write dollars, such as $0.50")
    try:
        return nano_from_usd(_decimal(found[1]))
    except ValueError as error:
        raise Wrong(str(error).partition(" is ")[2], "write at most nine decimals, such as $0.000000001") from None


def tokens(value: object) -> int:
    """`2M tokens` as a number."""
    found = _text(value, _TOKENS, "not a number of tokens", "write it like 2M tokens or 500k tokens")
    number = _decimal(found[1]) * _SCALE[found[2]]
    if number != int(number):
        raise Wrong("not a whole number of tokens", "write it like 2M tokens or 500k tokens")
    return int(number)


def amount(value: object) -> Amount:
    """`$50` or `2M tokens`, more than nothing."""
    fix = "write $50 or 2M tokens"
    if not isinstance(value, str):
        raise Wrong("an amount without a unit", fix)
    if value.lstrip().startswith("-"):
        raise Wrong("less than nothing", fix)
    result = Amount("tokens", tokens(value)) if "token" in value else Amount("usd", money(value))
    if result.number == 0:
        raise Wrong("a budget of nothing, which would refuse every call", f"{fix}, or revoke the keys concerned")
    return result


def price(value: object) -> int:
    """`$2.50/M` in femto-USD per token; `/K` is per thousand."""
    fix = "write dollars per million tokens, such as $2.50/M"
    found = _text(value, _PER_MILLION, "not a price per token", fix)
    femto = _decimal(found[1]) * 10**9 * _FEMTO_PER_NANO_PER_MILLION[found[2]]
    if femto != int(femto):
        raise Wrong("finer than a femto-dollar per token", fix)
    return int(femto)


def duration(value: object) -> int:
    """`15m` in milliseconds."""
    found = _text(value, _DURATION, "not a length of time", "write a number and a unit: 500ms, 30s, 15m, 1h or 7d")
    return int(found[1]) * _MILLISECONDS[found[2]]


def often(value: object) -> Often:
    """`20/10m`: at most 20 times in ten minutes."""
    fix = "write a number and a length of time, such as 20/10m"
    found = _text(value, _OFTEN, "not a number of times", fix)
    result = Often(int(found[1]), duration(found[2]))
    if not result.number or not result.period_ms:
        raise Wrong("never, or in no time", fix)
    return result


def size(value: object) -> int:
    """`10MiB` in bytes."""
    found = _text(value, _BYTES, "not a size", "write a number and a unit: 64KiB, 10MiB or 1GiB")
    return int(found[1]) * _SIZES[found[2]]


def share(value: object) -> int:
    """`50%`, or 0, in millionths."""
    if value == 0 and not isinstance(value, bool):
        return 0
    fix = "write a percentage from 0% to 100%, such as 10%"
    found = _text("0%" if value == "0" else value, _PERCENT, "not a percentage", fix)
    millionths = int(Decimal(found[1]) * PPM / 100)
    if millionths > PPM:
        raise Wrong("more than 100%", fix)
    return millionths


def rate(value: object) -> Rate:
    """`600/minute`, `100k tokens/minute` or `50 concurrent`; periods in the grammar of the `limits` library."""
    fix = "write 600/minute, 100k tokens/minute or 50 concurrent"
    if not isinstance(value, str):
        raise Wrong("a limit without a unit", fix)
    text = value.strip()
    if at_once := _CONCURRENT.fullmatch(text):
        result = Rate("concurrent", int(_decimal(at_once[1])))
    elif counted := _TOKEN_RATE.fullmatch(text):
        result = Rate("tokens", tokens(f"{counted[1]} tokens"), _period(f"1/{counted[3]}", fix)[1])
    else:
        number, period = _period(text, fix)
        result = Rate("rate", number, period)
    if result.number == 0:
        raise Wrong("a limit of nothing, which would refuse every call", f"{fix}, or revoke the keys concerned")
    return result


def _period(text: str, fix: str) -> tuple[int, int]:
    import limits  # noqa: PLC0415  a tenth of a second that most commands can do without

    try:
        items = limits.parse_many(text)
    except ValueError:
        raise Wrong("not a rate", fix) from None
    if len(items) != 1:
        raise Wrong("several rates in one", "write one rule for each of them")
    return items[0].amount, items[0].get_expiry() * 1000


def own_budget(key_id: str, text: str) -> BudgetRule:
    """The rule that a key's own budget stands for: `$5/day`, `2M tokens/month`; without a window it is for `total`."""
    found = _KEY_BUDGET.fullmatch(text.strip())
    allowed = amount(found[1] if found else text)
    window: Window = found[2] if found else "total"  # type: ignore[assignment]  # the pattern admits windows only
    return BudgetRule(f"key {key_id}", {"key": key_id}, allowed.number, allowed.unit, window)
