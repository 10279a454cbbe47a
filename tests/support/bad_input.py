"""Good requests of each family, and the ways in which bodies, members, paths and heads are made bad."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.load import CHAT

MESSAGES, GENERATE = "/v1/messages", "/v1beta/models/gemini-2.0-flash:generateContent"
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (CHAT, {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "user": "good-0"}),
    "anthropic": (
        MESSAGES,
        {"model": "claude-3-haiku", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
    ),
    "gemini": (GENERATE, {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
}
FAMILIES = tuple(GOOD)
MiB = 1024 * 1024
Header = tuple[bytes, bytes]


def post(
    path: str | bytes,
    body: bytes,
    key: str | None,
    *more: Header,
    host: bytes = b"localhost",
    method: bytes = b"POST",
    length: bool = True,
) -> bytes:
    """A request, with nothing checked."""
    target = path if isinstance(path, bytes) else path.encode()
    lines = [method + b" " + target + b" HTTP/1.1", b"host: " + host, b"content-type: application/json"]
    if key is not None:
        lines.append(b"authorization: Bearer " + key.encode())
    lines += [name + b": " + value for name, value in more]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def bodies(family: str) -> dict[str, bytes]:
    """Bodies that no dialect of this family may take."""
    good = GOOD[family][1]
    text = json.dumps(good).encode()
    found = {f"cut at {at}": text[:at] for at in range(0, len(text) - 1, 9)}
    found |= {
        "empty": b"",
        "a number": b"1",
        "null": b"null",
        "a string": b'"x"',
        "an array": b"[" + text + b"]",
        "two documents": text + text,
        "a tail": text + b"x",
        "NUL behind": text + b"\x00",
        "form": b"model=gpt-4o&messages=Hi",
        "single quotes": text.replace(b'"', b"'"),
        "comment": b"/* */" + text,
        "comma behind": text[:-1] + b",}",
        "UTF-16": json.dumps(good).encode("utf-16"),
        "UTF-32": json.dumps(good).encode("utf-32-le"),
        "byte order mark": b"\xef\xbb\xbf" + text,
        "bad UTF-8": text.replace(b"Hi", b"\xff"),
        "overlong UTF-8": text.replace(b"Hi", b"\xc0\xaf"),
        "surrogate in UTF-8": text.replace(b"Hi", b"\xed\xa0\x80"),
        "cut UTF-8": text.replace(b"Hi", b"\xf0\x9f\x98"),
        "control character": text.replace(b"Hi", b"\x01"),
        "line break in a string": text.replace(b"Hi", b"\n"),
        "bad escape": text.replace(b"Hi", b"\\x"),
        "short escape": text.replace(b"Hi", b"\\u12"),
        "not a number": text[:-1] + b', "x": NaN}',
        "infinite": text[:-1] + b', "x": Infinity}',
        "deep": text[:-1] + b', "x": ' + b"[" * 70 + b"]" * 70 + b"}",
        "ten megabytes of arrays": b"[" * (10 * MiB - 1),
        "ten megabytes of objects": b'{"a":' * (2 * MiB - 1),
        "ten megabytes deep in a member": text[:-1] + b', "x": ' + b"[" * (9 * MiB),
        "larger than allowed": b" " * (10 * MiB + 1),
    }
    return found


def with_member(family: str, name: str, value: bytes) -> bytes:
    """The good body with one member written anew, as raw JSON."""
    good = {key: json.dumps(one).encode() for key, one in GOOD[family][1].items()} | {name: value}
    return b"{" + b", ".join(b'"%b": %b' % (key.encode(), raw) for key, raw in good.items()) + b"}"


WRONG: dict[str, dict[str, Sequence[bytes]]] = {
    "openai": {
        "model": [b"5", b"null", b"[]", b"{}", b'""', b"true", b'"' + b"m" * 10_000 + b'"'],
        "messages": [b"5", b'"Hi"', b"{}", b"[5]", b"[null]", b'["Hi"]'],
        "max_tokens": [b'"9"', b"-2", b"1.5", b"true", b"[]", b"{}", b"1e400", b"9" * 400, b"-0.5"],
        "max_completion_tokens": [b'"9"', b"-2", b"true", b"9" * 30],
        "n": [b'"2"', b"0", b"-1", b"1.5", b"true", b"1000000000", b"[]"],
        "stream": [b'"true"', b"1", b"[]", b"{}"],
        "stream_options": [b"1", b'"x"', b"[]", b'{"include_usage": "no"}'],
    },
    "anthropic": {
        "model": [b"5", b"null", b"[]", b'""'],
        "messages": [b"5", b'"Hi"', b"{}", b"[5]"],
        "max_tokens": [b'"9"', b"-1", b"1.5", b"true", b"9" * 400],
        "stream": [b'"true"', b"1"],
        "thinking": [b"5", b'"on"', b'{"type": 5}', b'{"type": "enabled", "budget_tokens": "many"}'],
    },
    "gemini": {
        "contents": [b"5", b"{}x", b"[5]"],
        "generationConfig": [b"5", b"[]", b'"x"', b'{"maxOutputTokens": "x"}', b'{"maxOutputTokens": -1}'],
    },
}


ROUTES = (
    "/", "/v1", "/v1/", "/v1/nothing", "/v2/chat/completions", "/v1/chat/completions/", "/v1/Chat/Completions",
    "/v1/chat/completions/../models", "/v1/organization/users", "/v1/fine_tuning/jobs", "/admin", "/admin/api/keys",
    "/.env", "/v1/messages/batches/%2e%2e", "/openai", "/nobody/v1/chat/completions", "/v1beta/models/m:nothing",
    "/v1beta/models/a%2fb:generateContent", "/v1/chat%00completions", "//v1/chat/completions", "/v1/./models",
    "/v1/chat/completions;x=1", "/v1/chat\\completions", "/v1/models/%zz",
)  # fmt: skip


HEADS: dict[str, Callable[[bytes, str], bytes]] = {
    "two lengths": lambda b, k: post(CHAT, b, k, (b"content-length", b"%d" % len(b))),
    "two different lengths": lambda b, k: post(CHAT, b, k, (b"content-length", b"1")),
    "length and chunks": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"chunked")),
    "negative length": lambda b, k: post(CHAT, b, k, (b"content-length", b"-1"), length=False),
    "signed length": lambda b, k: post(CHAT, b, k, (b"content-length", b"+%d" % len(b)), length=False),
    "length in hex": lambda b, k: post(CHAT, b, k, (b"content-length", b"0x10"), length=False),
    "huge length": lambda b, k: post(CHAT, b, k, (b"content-length", b"9" * 30), length=False),
    "unknown coding": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"gzip, chunked"), length=False),
    "chunked twice": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"chunked, chunked"), length=False),
    "hidden coding": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"\x0bchunked"), length=False),
    "two hosts": lambda b, k: post(CHAT, b, k, (b"host", b"evil.example")),
    "host with a path": lambda b, k: post(CHAT, b, k, host=b"a/b"),
    "host with an at": lambda b, k: post(CHAT, b, k, host=b"a@b"),
    "host with a fragment": lambda b, k: post(CHAT, b, k, host=b"a#b"),
    "empty host": lambda b, k: post(CHAT, b, k, host=b""),
    "two content types": lambda b, k: post(CHAT, b, k, (b"content-type", b"text/plain")),
    "two authorizations": lambda b, k: post(CHAT, b, k, (b"authorization", b"Bearer x")),
    "underscore": lambda b, k: post(CHAT, b, k, (b"x_api_key", b"x")),
    "two features": lambda b, k: post(CHAT, b, k, (b"x-llmguard-feature", b"a"), (b"x-llmguard-feature", b"b")),
    "another feature": lambda b, k: post(CHAT, b, k, (b"x-llmguard-feature", b"billing")),
    "gzip": lambda b, k: post(CHAT, b, k, (b"content-encoding", b"gzip")),
    "upgrade": lambda b, k: post(CHAT, b, k, (b"connection", b"upgrade"), (b"upgrade", b"websocket")),
    "expectation": lambda b, k: post(CHAT, b, k, (b"expect", b"200-ok")),
    "space in a name": lambda b, k: post(CHAT, b, k, (b"x y", b"x")),
    "space before the colon": lambda b, k: post(CHAT, b, k, (b"x-y ", b"x")),
    "empty name": lambda b, k: post(CHAT, b, k, (b"", b"x")),
    "NUL in a value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\x00b")),
    "bare line feed in a value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\nx-z: b")),
    "bare carriage return in a value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\rx-z: b")),
    "folded value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\r\n b")),
    "101 headers": lambda b, k: post(CHAT, b, k, *[(b"x-%d" % n, b"x") for n in range(101)]),
    "a large header": lambda b, k: post(CHAT, b, k, (b"x-y", b"x" * 40_000)),
    "a long line": lambda b, k: post(CHAT + "?a=" + "x" * 9_000, b, k),
    "bytes in the path": lambda b, k: post(b"/v1/\xff", b, k),
    "space in the path": lambda b, k: post(b"/v1/chat completions", b, k),
    "unknown method": lambda b, k: post(CHAT, b, k, method=b"TRACE"),
    "invented method": lambda b, k: post(CHAT, b, k, method=b"GUESS"),
    "connect": lambda b, k: post(b"evil.example:443", b, k, method=b"CONNECT"),
    "proxy request": lambda b, k: post(b"http://evil.example/v1/chat/completions", b, k),
    "get": lambda b, k: post(CHAT, b, k, method=b"GET"),
    "delete": lambda b, k: post(CHAT, b, k, method=b"DELETE"),
    "no version": lambda b, k: b"POST " + CHAT.encode() + b"\r\n\r\n",
    "version 2": lambda b, k: post(CHAT, b, k).replace(b"HTTP/1.1", b"HTTP/2.0", 1),
    "not http": lambda b, k: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
}
