"""What every dialect shares: strict JSON in, byte-exact edits, typed fields, refusals and masked errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import jiter
import msgspec

from llmguard.core.decision import Refuse
from llmguard.core.money import usd_string
from llmguard.errors import BadCall

MAX_DEPTH = 64
MAX_CONTAINERS = 50_000
MAX_MEMBERS = 100_000
MAX_VALUES = 1_000_000
MAX_INT = 2**63 - 1
LARGE_BODY = 128 * 1024
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a reply that is not JSON, not UTF-8, or of another shape than expected."""

MOST_SEARCHES = 20
"""Searches of one call that names no limit: twice the ten turns after which Anthropic pauses a loop of its tools (docs
"Server tools"); recorded answers of all providers have at most eight."""
SEARCHES_END = 1_000
"""No provider goes on for longer, whatever limit a call names."""

encode = msgspec.json.Encoder().encode
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode(body: bytes) -> dict[str, Any]:
    """Decode a request body, once and strictly: the document we meter is the document the provider reads.

    Refused with :class:`BadCall` 400: anything that is not one complete RFC 8259 object in UTF-8 without BOM, NaN and
    Infinity, duplicate keys (parsers disagree about which one counts), lone surrogates, nesting over ``MAX_DEPTH``,
    integers over 4,300 digits, and far more values than a real call has (each costs a hundred times its bytes).
    """
    if len(body) > LARGE_BODY:
        _refuse_crowds(body)
    try:
        doc = jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
    except ValueError as error:
        raise _bad_json(str(error)) from None
    if type(doc) is not dict:
        raise BadCall(f"The request body must be a JSON object, not {_word(doc)}.", code="invalid_json")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper_than(doc, MAX_DEPTH):
        raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels")
    return doc


def _refuse_crowds(body: bytes) -> None:
    """Count in pieces, so that the worst bodies are known by their beginning. What stands in strings counts too."""
    containers = members = values = 0
    for start in range(0, len(body), LARGE_BODY):
        end = start + LARGE_BODY
        containers += body.count(b"{", start, end) + body.count(b"[", start, end)
        members += body.count(b'":', start, end)
        values += body.count(b",", start, end)
        if containers > MAX_CONTAINERS or members > MAX_MEMBERS or values > MAX_VALUES:
            limits = f"{MAX_CONTAINERS} objects and arrays, {MAX_MEMBERS} members or {MAX_VALUES} values"
            raise _bad_json(f"it has more than {limits}")


def _bad_json(why: str) -> BadCall:
    return BadCall(f"The request body is not acceptable JSON: {why}.", code="invalid_json")


def _deeper_than(doc: dict[str, Any], limit: int) -> bool:
    """Walk level by level, so that no nesting can exhaust the stack (jiter itself stops at 200)."""
    level: list[Any] = [doc]
    for _ in range(limit):
        inside = chain.from_iterable(c.values() if type(c) is dict else c for c in level)
        level = [value for value in inside if type(value) is dict or type(value) is list]
        if not level:
            return False
    return True


def _word(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def wrong(param: str, value: object, right: str) -> BadCall:
    """The error for a field of the wrong type: ``right`` says what it must be."""
    return BadCall(f"'{param}' must be {right}, not {_word(value)}.", code="invalid_type", param=param)


def take_int(
    doc: Mapping[str, Any], name: str, *, minimum: int = 0, maximum: int = MAX_INT, param: str | None = None
) -> int | None:
    """An integer field; absent and null are ``None``.

    A boolean is no integer. A number without fraction (``1.0``) is one, as in JSON Schema. ``param`` is the field's
    full path where ``doc`` is a nested object.
    """
    value = doc.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise wrong(param or name, value, "an integer")
    if not minimum <= value <= maximum:
        message = f"'{param or name}' must be between {minimum} and {maximum}."
        raise BadCall(message, code="invalid_value", param=param or name)
    return value


def take_bool(doc: Mapping[str, Any], name: str, *, param: str | None = None) -> bool | None:
    """A boolean field; absent and null are ``None``."""
    value = doc.get(name)
    if value is not None and type(value) is not bool:
        raise wrong(param or name, value, "true or false")
    return value


def take_str(doc: Mapping[str, Any], name: str, *, param: str | None = None) -> str | None:
    """A string field; absent and null are ``None``."""
    value = doc.get(name)
    if value is not None and type(value) is not str:
        raise wrong(param or name, value, "a string")
    return value


def need_str(doc: Mapping[str, Any], name: str) -> str:
    """A string field that must be there and not be empty."""
    value = take_str(doc, name)
    if not value:
        raise BadCall(f"'{name}' is missing: it must be a non-empty string.", code="missing_field", param=name)
    return value


def take_object(doc: Mapping[str, Any], name: str, *, param: str | None = None) -> dict[str, Any] | None:
    """An object field; absent and null are ``None``."""
    value = doc.get(name)
    if value is not None and type(value) is not dict:
        raise wrong(param or name, value, "an object")
    return value


def take_list(doc: Mapping[str, Any], name: str, *, param: str | None = None) -> list[Any] | None:
    """An array field; absent and null are ``None``."""
    value = doc.get(name)
    if value is not None and type(value) is not list:
        raise wrong(param or name, value, "an array")
    return value


def most_searches(named: int | None, assumed: int = MOST_SEARCHES) -> int:
    """How often a tool of the provider may search in one call: as often as the call names, else ``assumed``."""
    return assumed if named is None else min(named, SEARCHES_END)


def splice(body: bytes, changes: Mapping[str, bytes], *, present: Mapping[str, Any]) -> bytes:
    """Set members of a top-level JSON object; all other values stay byte for byte.

    ``changes`` maps names to encoded values, ``present`` is the decoded object (it tells which names are there).
    Absent names go right after the opening brace; only replacing one re-encodes the outer object, and then its nested
    values are still copied as they stand.
    """
    replaced = {name: msgspec.Raw(value) for name, value in changes.items() if name in present}
    if replaced:
        body = encode(_raw_members(body) | replaced)
    added = [encode(name) + b":" + value for name, value in changes.items() if name not in present]
    if not added:
        return body
    at = body.index(b"{") + 1
    if present:
        added.append(b"")
    return body[:at] + b",".join(added) + body[at:]


def member(body: bytes, name: str) -> bytes:
    """The encoded value of a top-level member, byte for byte. Raises KeyError when it is absent."""
    return bytes(_raw_members(body)[name])


def read_loosely(data: bytes) -> dict[str, Any]:
    """The object in a reply, also where its text is not UTF-8 throughout; empty where there is none."""
    try:
        doc = jiter.from_json(data)
    except ValueError:
        try:
            doc = jiter.from_json(data.decode("utf-8", "replace").encode())
        except ValueError:
            return {}
    return doc if type(doc) is dict else {}


def llmguard_object(refuse: Refuse, request_id: str) -> dict[str, Any]:
    """The part of every refusal that is the same in all dialects; amounts are decimal strings in ``unit``."""

    def amount(value: int | None) -> str | None:
        if value is None:
            return None
        return usd_string(value) if refuse.unit == "usd" else str(value)

    return {
        "scope": dict(refuse.scope),
        "rule": refuse.rule,
        "limit": amount(refuse.limit),
        "spent": amount(refuse.spent),
        "held": amount(refuse.held),
        "unit": refuse.unit,
        "reset_at": None if refuse.reset_at is None else iso_utc(refuse.reset_at),
        "request_id": request_id,
    }


def iso_utc(epoch_ms: int) -> str:
    """Epoch milliseconds as ISO-8601 UTC in whole seconds, rounded up: by then the moment has come."""
    return datetime.fromtimestamp(-(-epoch_ms // 1000), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_SECRET = re.compile(
    rb"(?<![A-Za-z0-9])(?:"
    rb"(sk-|csk-|gsk_|xai-|pplx-|hf_|r8_|nvapi-|fw_|tgp_v1_|pa-|lg_|dapi|ghp_|github_pat_|AIza|AQ\.|ya29\.)"
    rb"[A-Za-z0-9_.\-]{12,}"
    rb"|(AKIA|ASIA)[A-Z0-9]{16}"
    rb"|(?<![_\-])(eyJ)[A-Za-z0-9_\-]{8,}+\.[A-Za-z0-9_\-]{8,}+\.[A-Za-z0-9_\-]*"
    rb"|((?:Bearer|Basic) +)(?=[A-Za-z._~+/=\-]*[0-9])[A-Za-z0-9._~+/=\-]{16,}"
    rb"|((?:api[_-]?key|key|access_token|sig|signature)=)[^&\s\"'<>*\\]{12,}"
    rb")",
    re.IGNORECASE,
)


def mask_secrets(body: bytes, *known: bytes) -> bytes:
    """Mask everything in a provider's error body that looks like a key; the same object when there is nothing.

    The key's prefix stays so that a person still sees which kind it was; a key that the provider masked already
    (``sk-ab***yz``) is left as it is. ``known`` are keys to mask whatever they look like.
    """
    masked = body
    for key in known:
        masked = masked.replace(key, b"***")
    found = _SECRET.search(masked)
    return masked if found is None else _SECRET.sub(lambda m: (m[m.lastindex or 0] or b"") + b"***", masked)
