"""Field types of the configuration: text in, frozen value out, with a JSON Schema of what people write."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, SecretStr, WithJsonSchema
from pydantic_core import core_schema

from llmguard.config import units
from llmguard.config.units import Amount, Often, Rate, Wrong
from llmguard.core.rules import DIMENSIONS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s]*")
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
_TRUE: Final = {"true", "on", "yes"}
_FALSE: Final = {"false", "off", "no"}
_VALUE_LIMIT: Final = 128
_REFERENCE: Final = r"\$\{"


class Dsn(str):
    """A URL that may hold a password: whole as a string, masked wherever it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(masked(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Instances only; :func:`_dsn` makes them."""
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(masked)
        )


def masked(url: str) -> str:
    """A URL without its user and password."""
    return _USERINFO.sub("***@", url)


def _dsn(value: object) -> Dsn:
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise Wrong("not a URL", "write scheme://…")
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise Wrong("a URL with an impossible port or host", "write scheme://host:port/…") from None
    return Dsn(value)


def _secret_url(value: object) -> SecretStr:
    if not isinstance(value, str) or not re.fullmatch(r"https?://\S+", value):
        raise Wrong("not a web address", "write https://host/path")
    return SecretStr(_dsn(value))


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value):
        return int(value)
    raise Wrong("not a whole number", "write digits only")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise Wrong("neither true nor false", "write true or false")


def _word(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Wrong("not a name", "use letters, digits, dots, dashes and underscores, at most 64")
    return value


def _expression(value: object) -> str:
    try:
        re.compile(value if isinstance(value, str) else "")
    except re.error as error:
        raise Wrong(f"not a regular expression ({error})", r"write one of Python's, such as EMP-\d{6}") from None
    if not isinstance(value, str) or not value:
        raise Wrong("not a regular expression", r"write one of Python's, such as EMP-\d{6}")
    return value


def _zone(value: object) -> str:
    try:
        ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Wrong("not a time zone", "write a name of the IANA database, such as Europe/Berlin or UTC") from None
    return str(value)


def _scope(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Wrong("not a scope", 'write {team: search, env: prod}, {key: "*"}, or {} for everything')
    for dimension, wanted in value.items():
        if dimension not in DIMENSIONS:
            raise Wrong(f"a scope over {dimension!r}, which is no dimension", f"use {', '.join(DIMENSIONS)}")
        if not isinstance(wanted, str) or not 0 < len(wanted) <= _VALUE_LIMIT:
            raise Wrong(
                f"a scope whose {dimension} is no text", f'write a value in quotes, or "*" for each {dimension}'
            )
        if "*" in wanted and wanted != "*":
            raise Wrong(
                f"a scope with a pattern for {dimension}", f'write one value, or "*" alone for each {dimension}'
            )
    return {dimension: value[dimension] for dimension in DIMENSIONS if dimension in value}


def between(parse: Callable[[object], int], low: str, high: str) -> AfterValidator:
    """Bounds for a size, in the words a person writes."""
    least, most = parse(low), parse(high)

    def check(value: int) -> int:
        if not least <= value <= most:
            raise Wrong(f"not between {low} and {high}", f"write a value from {low} to {high}")
        return value

    return AfterValidator(check)


def _several(value: object) -> object:
    """One value where a list is wanted, as a variable gives it."""
    return [value] if isinstance(value, str) else value


def _written(parse: Callable[[object], Any], schema: dict[str, Any]) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(parse), WithJsonSchema(schema)


def _pattern(pattern: str, *examples: str) -> dict[str, Any]:
    shown = {"examples": list(examples)} if examples else {}
    return {"type": "string", "pattern": f"{pattern}|{_REFERENCE}", **shown}


def _shown(value: Amount | Rate | Often) -> str:
    return repr(value)


Url = Annotated[Dsn, *_written(_dsn, _pattern("^[a-z][a-z0-9+.-]*://"))]
SecretUrl = Annotated[SecretStr, *_written(_secret_url, _pattern("^https?://"))]
Whole = Annotated[int, *_written(_whole, {"anyOf": [{"type": "integer"}, _pattern("^[0-9]+$")]})]
Flag = Annotated[bool, *_written(_flag, {"anyOf": [{"type": "boolean"}, _pattern("^(true|false|on|off|yes|no)$")]})]
Name = Annotated[str, *_written(_word, {"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Zone = Annotated[str, *_written(_zone, {"type": "string", "examples": ["Europe/Berlin"]})]
Expression = Annotated[str, *_written(_expression, {"type": "string", "format": "regex"})]
Scope = Annotated[
    dict[str, str],
    *_written(
        _scope,
        {
            "type": "object",
            "properties": {dimension: {"type": "string"} for dimension in DIMENSIONS},
            "additionalProperties": False,
        },
    ),
]
Several = BeforeValidator(_several)
Money = Annotated[int, *_written(units.money, _pattern(r"^\$", "$0.50"))]
PerToken = Annotated[int, *_written(units.price, _pattern(r"^\$.*/", "$2.50/M"))]
Milliseconds = Annotated[int, *_written(units.duration, _pattern("^[0-9]+ *(ms|s|m|h|d)$", "15m"))]
Bytes = Annotated[int, *_written(units.size, _pattern("^[0-9]+ *[A-Za-z]+$", "10MiB"))]
Share = Annotated[int, *_written(units.share, {"anyOf": [_pattern("%$", "10%"), {"const": 0}]})]
Allowance = Annotated[
    Amount, PlainSerializer(_shown), *_written(units.amount, _pattern(r"^\$|tokens?$", "$50", "2M tokens"))
]
Pace = Annotated[
    Rate, PlainSerializer(_shown), *_written(units.rate, _pattern("/|per|concurrent$", "600/minute", "50 concurrent"))
]
Frequency = Annotated[
    Often, PlainSerializer(_shown), *_written(units.often, _pattern("^[0-9]+ */ *[0-9]+ *(ms|s|m|h|d)$", "20/10m"))
]
