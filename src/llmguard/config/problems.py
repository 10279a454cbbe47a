"""From validation errors to problems that name the place, the wrong value, and a right one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from llmguard.config.document import Document, Loc, dotted
from llmguard.config.schema import Config
from llmguard.config.sections import Section
from llmguard.config.types import masked
from llmguard.config.units import Wrong

_SHOWN: Final = 60
_KEY: Final = "[key]"
_WHY: Final = {
    "string_type": "not text",
    "dict_type": "not a mapping",
    "model_type": "not a mapping",
    "tuple_type": "not a list",
    "too_short": "empty",
    "string_too_short": "empty",
    "string_too_long": "too long",
}


def report_errors(document: Document, errors: Iterable[ErrorDetails]) -> None:
    """Add one problem for each validation error."""
    for error in errors:
        loc = error_loc(error)
        message, fix = _describe(error, loc)
        document.report(loc, message, fix)


def error_loc(error: ErrorDetails) -> Loc:
    """The location of an error; one about a key is the key's own."""
    return tuple(part for part in error["loc"] if part != _KEY)


def shown(value: object, loc: Loc) -> str:
    """A value as a message may show it: no secret, no password, not too long."""
    if "secrets" in loc or "keys" in loc or (loc[:1] == ("alerts",) and loc[-1] == "url"):
        return "set (its value is not shown)"
    if value is None:
        return "empty"
    text = masked(str(value)) if isinstance(value, str) else str(value)
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return f"{text!r}" if isinstance(value, str) else text


def _describe(error: ErrorDetails, loc: Loc) -> tuple[str, str]:
    section, field = _field(loc)
    kind, name = error["type"], dotted(loc)
    if kind == "missing":
        return f"{name} is missing", _example(loc, field)
    if kind == "extra_forbidden":
        return _unknown_key(section, loc)
    value = loc[-1] if error["loc"][-1] == _KEY else error["input"]
    if value is None:
        return f"{name} is empty", f"remove the line, or {_example(loc, field)}"
    said = f"{name} is {shown(value, loc)}"
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        return f"{said}, {cause.why}", cause.fix
    if kind == "literal_error":
        later = section.later.get(f"{loc[-1]}: {value}")
        choices = _choices(field.annotation) if field else ()
        if later is not None:
            return f"{said}, which is not in this version", later
        return f"{said}, not one of {_listed(choices)}", _closest(value, choices, f"write one of {_listed(choices)}")
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"{said}, which is out of range ({error['msg'].removeprefix('Input should be ')})", _example(loc, field)
    return f"{said}, {_WHY.get(kind, error['msg'])}", _example(loc, field)


def _unknown_key(section: type[Section], loc: Loc) -> tuple[str, str]:
    key, parent = str(loc[-1]), dotted(loc[:-1])
    if key in section.later:
        return f"{dotted(loc)} is not in this version", section.later[key]
    known = list(section.model_fields)
    return f"{parent} has no key {key!r}", _closest(key, known, f"use one of {_listed(known)}, or remove it")


def _closest(value: object, choices: Sequence[str], otherwise: str) -> str:
    near = get_close_matches(str(value).lower(), choices, n=1)
    return f"write {near[0]}" if near else otherwise


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _example(loc: Loc, field: FieldInfo | None) -> str:
    if field is None or not field.examples:
        return "give it the form that the documentation shows"
    key = next(part for part in reversed(loc) if isinstance(part, str))
    return f"write {key}: {_yaml(field.examples[0])}"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f'"{text}"' if text == "*" or "${" in text else text


def _field(loc: Loc) -> tuple[type[Section], FieldInfo | None]:
    """The section that a location lies in, and the field that it names."""
    section: type[Section] = Config
    field: FieldInfo | None = None
    entry = False
    for part in loc:
        if entry or isinstance(part, int):  # a provider's name, a budget's number, an item of a list
            entry = False
            continue
        field = section.model_fields.get(part)
        if field is None:
            break
        inner = _inner(field.annotation)
        if inner is not None and part != loc[-1]:
            section = inner
            entry = get_origin(field.annotation) in (dict, tuple)
    return section, field


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words that a field takes, be it one of them or a list."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


def _inner(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner(part)) is not None), None)
