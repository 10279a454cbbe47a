"""The edge: what a request head must be before anything looks at it, and which headers and parameters pass on.

Servers differ in what they let through (a fragment in Host, Transfer-Encoding beside Content-Length, a header twice),
so nothing here relies on the server. Whatever two programs could read in two ways is refused, never repaired.
Out and back, headers and query parameters pass by allow-list: all tenants share one provider account, so what chooses
who pays, whose limits show, or how usage is reported is not the caller's to set or see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from urllib.parse import unquote, unquote_to_bytes

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Sizes in bytes. ``line`` is the request line, ``head`` all header names and values with their separators."""

    line: int = 8 * 1024
    head: int = 32 * 1024
    count: int = 100
    body: int = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Violation:
    """The head is refused: HTTP ``status``, a machine-readable ``code``, and a ``message`` that repeats no input."""

    status: int
    code: str
    message: str


METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
KEY_PARAMS = frozenset(
    b"key api_key api-key apikey access_token oauth_token authorization x-api-key x-goog-api-key "
    b"subscription-key".split()
)
LONGEST_HOST = 253 + len(":65535")
LINE_OVERHEAD = len(" ? HTTP/1.1\r\n")
HEADER_OVERHEAD = len(": \r\n")

# Read by us or by the provider, so two of them would be read in two ways.
SINGLE = frozenset(
    {*KEY_HEADERS, "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "expect"}
    | {"idempotency-key"}
)
STAINLESS = (
    "arch async custom-event-handler custom-poll-interval helper helper-method lang os package-version poll-helper "
    "raw-response read-timeout retry-count runtime runtime-version stream-helper timeout"
)
OUT_ALWAYS = {
    name: name.encode()
    for name in {"content-type", "accept", "user-agent", "x-client-request-id"}
    | {f"x-stainless-{name}" for name in STAINLESS.split()}
}
OUT_FAMILY = {
    "openai": OUT_ALWAYS | {"openai-beta": b"openai-beta"},
    "anthropic": OUT_ALWAYS | {"anthropic-beta": b"anthropic-beta", "anthropic-version": b"anthropic-version"},
    "gemini": OUT_ALWAYS | {"x-goog-api-client": b"x-goog-api-client", "x-server-timeout": b"x-server-timeout"},
}
_OUT_ALWAYS = frozenset(name.encode() for name in OUT_ALWAYS)
_OUT = {family: frozenset(name.encode() for name in names) for family, names in OUT_FAMILY.items()}
_UNENCODED = (b"accept-encoding", b"identity")
# Not x-ratelimit-*, anthropic-ratelimit-* or organization names: they are the shared key's. The guard sends its own.
BACK = frozenset(
    b"content-type content-encoding content-disposition cache-control retry-after retry-after-ms x-should-retry "
    b"x-request-id request-id x-client-request-id apim-request-id openai-processing-ms openai-version openai-model "
    b"openai-poll-after-ms x-gemini-service-tier".split()
)
PAGING = frozenset({"limit", "order", "after", "before"})
# `fields`, `$fields`, `callback` and `alt=proto` would hide the usage from the meter.
PARAMS = {
    "openai": PAGING
    | {"api-version", "include", "include[]", "stream", "starting_after", "include_obfuscation", "purpose", "model"},
    "anthropic": PAGING | {"beta", "before_id", "after_id", "page"},
    "gemini": {"alt", "$alt", "pageSize", "pageToken", "page_size", "page_token", "filter", "updateMask"},
}
REPEATABLE = frozenset({"include", "include[]"})
ALT_VALUES = frozenset({"sse", "json"})


class _Names(dict[bytes, str]):
    """Header names as lower-case text. Well-known ones are looked up, others checked and decoded each time."""

    def __missing__(self, name: bytes) -> str:
        return name.decode("ascii").lower() if TOKEN.fullmatch(name) else ""


NAMES = _Names(
    {
        name.encode(): name
        for name in SINGLE.union(*OUT_FAMILY.values())
        | {"accept-encoding", "accept-language", "cache-control", "cookie", "origin", "referer", "traceparent"}
        | {"tracestate", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id"}
        | {"x-llmguard-context", "x-llmguard-feature", "x-llmguard-metadata", "x-llmguard-user", "connection"}
    }
)
TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^`|~-]+")
HOST = re.compile(r"(?:[A-Za-z0-9-]+(?:[._][A-Za-z0-9-]+)*\.?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
PLAIN_PATH = re.compile(rb"(?:/[\w~!$&'()*+,=:@-][\w.~!$&'()*+,=:@-]*)+")
ANY_PATH = re.compile(rb"/[\w.~!$&'()*+,=:@%/-]*")
# An escape that is broken, or hides a control, one of # % . / ; ? \ or a byte that is not ASCII.
BAD_ESCAPE = re.compile(rb"%(?![2-7][0-9a-f])|%(?:2[35ef]|3[bf]|5c|7f)", re.IGNORECASE)
DOT_SEGMENT = re.compile(rb"/\.{1,2}(?:/|\Z)")
QUERY = re.compile(rb"[!$-:<-~]*")

BAD_METHOD = Violation(405, "method_not_allowed", "This method is not served here.")
LONG_LINE = Violation(414, "uri_too_long", "The request line is too long.")
LARGE_HEAD = Violation(431, "headers_too_large", "The request has too many or too large headers.")
BAD_PATH = Violation(
    400,
    "bad_path",
    "The path must be plain ASCII that starts with one slash: no empty or dot segments, semicolons, backslashes, "
    "controls, or escapes of such characters.",
)
BAD_QUERY = Violation(400, "bad_query", "The query string has characters that must be percent-encoded.")
KEY_IN_QUERY = Violation(
    400,
    "key_in_query",
    "A key in the URL ends up in logs. Send it in a header (Authorization, x-api-key or x-goog-api-key), and replace "
    "this one.",
)
BAD_NAME = Violation(
    400, "bad_header_name", "A header name has a character that is not allowed here (underscores included)."
)
BAD_VALUE = Violation(400, "bad_header_value", "A header value has a line break or a NUL.")
BAD_HOST = Violation(400, "bad_host", "Exactly one valid Host header is needed.")
BAD_LENGTH = Violation(400, "bad_content_length", "Content-Length must be one plain decimal number.")
LARGE_BODY = Violation(413, "body_too_large", "The request body is too large.")
BAD_FRAMING = Violation(
    400, "bad_framing", "Transfer-Encoding may only be `chunked`, and not together with Content-Length."
)
BAD_EXPECT = Violation(417, "expectation_failed", "Only `Expect: 100-continue` is understood.")
UPGRADE = Violation(
    400, "upgrade_refused", "The protocol cannot be changed on this connection: send no Upgrade header."
)
ENCODED_BODY = Violation(
    415, "unsupported_content_encoding", "Send the request body as it is, without Content-Encoding."
)
TWO_KEYS = Violation(400, "two_keys", "Two keys came in different headers. Send one.")


def check_head(
    method: str, raw_path: bytes, query: bytes, headers: Headers, limits: EdgeLimits
) -> dict[str, str] | Violation:
    """Check a request head and return its headers, names in lower case, values as Latin-1 text.

    ``raw_path`` is the undecoded path without query and ``query`` the undecoded query string. A header that may come
    several times has its values joined by a comma and a space, in order.
    """
    if method not in METHODS:
        return BAD_METHOD
    if len(method) + len(raw_path) + len(query) + LINE_OVERHEAD > limits.line:
        return LONG_LINE
    if not PLAIN_PATH.fullmatch(raw_path) and not _unusual_path_ok(raw_path):
        return BAD_PATH
    if query and (fault := _check_query(query)):
        return fault
    if not headers:
        return BAD_HOST
    if len(headers) > limits.count:
        return LARGE_HEAD
    head = _read_headers(headers, limits.head)
    return head if isinstance(head, Violation) else _check_meaning(head, limits.body) or head


def _unusual_path_ok(raw_path: bytes) -> bool:
    return (
        ANY_PATH.fullmatch(raw_path) is not None
        and b"//" not in raw_path
        and DOT_SEGMENT.search(raw_path) is None
        and BAD_ESCAPE.search(raw_path) is None
    )


def _check_query(query: bytes) -> Violation | None:
    if not QUERY.fullmatch(query):
        return BAD_QUERY
    for pair in query.split(b"&"):
        name = pair.partition(b"=")[0]
        if unquote_to_bytes(name).lower() in KEY_PARAMS:
            return KEY_IN_QUERY
    return None


def _read_headers(headers: Headers, limit: int) -> dict[str, str] | Violation:
    raw = b"".join(chain.from_iterable(headers))
    if len(raw) + HEADER_OVERHEAD * len(headers) > limit:
        return LARGE_HEAD
    if 10 in raw or 13 in raw or 0 in raw:
        return BAD_VALUE
    if raw.isascii():
        head = {NAMES[name]: value.decode() for name, value in headers}
    else:
        head = {NAMES[name]: value.decode("latin-1") for name, value in headers}
    if "" in head:
        return BAD_NAME
    return head if len(head) == len(headers) else _join_repeated(headers)


def _join_repeated(headers: Headers) -> dict[str, str] | Violation:
    head: dict[str, str] = {}
    for name, value in headers:
        key = NAMES[name]
        text = value.decode("latin-1")
        if key not in head:
            head[key] = text
        elif key in SINGLE:
            return BAD_HOST if key == "host" else Violation(400, "repeated_header", f"Two {key} headers: send one.")
        elif key.startswith("x-llmguard-"):
            return Violation(400, "repeated_header", "An x-llmguard-* header came twice: send one.")
        else:
            head[key] = f"{head[key]}, {text}"
    return head


def _check_meaning(head: dict[str, str], body_limit: int) -> Violation | None:
    host = head.get("host", "")
    if len(host) > LONGEST_HOST or not HOST.fullmatch(host):
        return BAD_HOST
    length = head.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdigit()) or len(length) > 19:
            return BAD_LENGTH
        if int(length) > body_limit:
            return LARGE_BODY
    if "transfer-encoding" in head and (length is not None or head["transfer-encoding"].lower() != "chunked"):
        return BAD_FRAMING
    if "expect" in head and head["expect"].lower() != "100-continue":
        return BAD_EXPECT
    if "upgrade" in head:
        return UPGRADE
    if "content-encoding" in head and head["content-encoding"].lower() != "identity":
        return ENCODED_BODY
    return _check_keys(head)


def _check_keys(head: dict[str, str]) -> Violation | None:
    found: str | None = None
    for name in KEY_HEADERS:
        if name in head:
            key = _bare(head[name])
            if found is not None and key != found:
                return TWO_KEYS
            found = key
    return None


def _bare(key: str) -> str:
    return key[7:].strip() if key[:7].lower() == "bearer " else key


def credential(headers: Mapping[str, str]) -> str | None:
    """The caller's key, wherever its SDK puts it; None without one or with another scheme than Bearer."""
    authorization = headers.get("authorization")
    if authorization is not None:
        return _bare(authorization) or None if authorization[:7].lower() == "bearer " else None
    for name in KEY_HEADERS:
        key = headers.get(name)
        if key:
            return key
    return None


def outgoing_headers(headers: Headers, family: str, tenant: str | None = None) -> list[tuple[bytes, bytes]]:
    """The caller's headers that go to a provider of ``family``: not its key, Host and framing.

    ``headers`` are the pairs that :func:`check_head` has passed, with names in lower case. Replies are asked for
    unencoded, so that usage can be read from the bytes that pass. An idempotency key goes out only hashed together with
    ``tenant``: the provider keeps one space of them per account, and a guessed one would return another team's answer.
    """
    allowed = _OUT.get(family, _OUT_ALWAYS)
    out = [pair for pair in headers if pair[0] in allowed]
    out.append(_UNENCODED)
    if tenant:
        for name, value in headers:
            if name == b"idempotency-key":
                out.append((name, sha256(b"\0".join((tenant.encode(), value))).hexdigest().encode()))
    return out


def returning_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Those of a provider's headers (names in lower case) that the caller may see; the framing is the relay's."""
    return [pair for pair in headers if pair[0] in BACK]


def outgoing_query(query: str, family: str) -> str:
    """The query parameters that go to a provider of ``family``, as they were written and in their order.

    A parameter that comes twice goes out once, the first one, except where lists are written that way.
    """
    if not query:
        return ""
    allowed = PARAMS.get(family, PAGING)
    kept: dict[str, list[str]] = {}
    for pair in query.split("&"):
        raw_name, _, value = pair.partition("=")
        name = unquote(raw_name)
        if name not in allowed or (name in kept and name not in REPEATABLE):
            continue
        if name in ("alt", "$alt") and value not in ALT_VALUES:
            continue
        kept.setdefault(name, []).append(pair)
    return "&".join(pair for pairs in kept.values() for pair in pairs)
