"""A configuration as a person would write it: the way back from integers to `$50`, `15m` and `10MiB`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel, BeforeValidator, SecretStr

from llmguard.config import units
from llmguard.config.types import masked
from llmguard.config.units import Amount, Often, Rate
from llmguard.core.money import usd_string
from llmguard.core.rules import PPM

_MASK: Final = "***"


def written(model: BaseModel) -> dict[str, Any]:
    """All fields of a section in YAML's types; what is unset is left out, and secrets are masked.

    Without secrets in it, it reads back as the same configuration.
    """
    document = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None:
            write = next((_WRITERS[p] for p in _parsers(field) if p in _WRITERS), _plain)
            document[name] = [write(item) for item in value] if isinstance(value, tuple) else write(value)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return written(value)
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return masked(value) if isinstance(value, str) else value


def _parsers(annotation: Any) -> Iterator[Callable[..., Any]]:
    """The parsers of a field or its type, the grammar of which its value was written in."""
    for mark in getattr(annotation, "metadata", ()):
        if isinstance(mark, BeforeValidator):
            yield mark.func
    inner = getattr(annotation, "annotation", None)
    yield from _within(annotation if inner is None else inner)


def _within(annotation: Any) -> Iterator[Callable[..., Any]]:
    for part in get_args(annotation):
        if isinstance(part, BeforeValidator):
            yield part.func
        else:
            yield from _within(part)


def _in_largest(number: int, units: dict[str, int]) -> str:
    fitting = (unit for unit, size in units.items() if number and number % size == 0)
    unit = next(fitting, min(units, key=units.__getitem__))
    return f"{number // units[unit]}{unit}"


def _duration(ms: int) -> str:
    return _in_largest(ms, {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1})


def _size(number: int) -> str:
    return _in_largest(number, {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1})


def _share(millionths: int) -> str:
    return f"{millionths * 100 / PPM:g}%"


def _money(nano: int) -> str:
    return f"${usd_string(nano)}"


def _price(femto: int) -> str:
    return f"${usd_string(femto)}/M"


def _amount(amount: Amount) -> str:
    return _money(amount.number) if amount.unit == "usd" else f"{amount.number} tokens"


def _rate(rate: Rate) -> str:
    if rate.kind == "concurrent":
        return f"{rate.number} concurrent"
    of = f"{rate.number} tokens" if rate.kind == "tokens" else str(rate.number)
    return f"{of} per {rate.period_ms // 1000} seconds"


def _often(often: Often) -> str:
    return f"{often.number}/{_duration(often.period_ms)}"


_WRITERS: Final[dict[Callable[..., Any], Callable[[Any], Any]]] = {
    units.money: _money,
    units.price: _price,
    units.duration: _duration,
    units.size: _size,
    units.share: _share,
    units.amount: _amount,
    units.rate: _rate,
    units.often: _often,
}
