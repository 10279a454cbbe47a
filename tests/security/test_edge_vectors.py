"""Hostile heads, one per line: each is refused with the status and code written here, and nothing ever crashes."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from llmguard.core.edge import EdgeLimits, Violation, check_head, credential, outgoing_headers, outgoing_query

LIMITS = EdgeLimits()
HOST = (b"host", b"llm.corp.example")
CORPORA = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[2] / "../shared/corpora"))

Pair = tuple[bytes, bytes]


def verdict(
    *headers: Pair, method: str = "POST", path: bytes = b"/v1/messages", query: bytes = b""
) -> tuple[int, str] | None:
    """Status and code of the refusal, None where the head is let through."""
    found = check_head(method, path, query, headers, LIMITS)
    return (found.status, found.code) if isinstance(found, Violation) else None


def test_the_head_that_every_vector_bends_is_itself_good() -> None:
    assert verdict(HOST) is None


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"*",
        b"v1/messages",
        b"http://evil.example/v1/messages",
        b"//evil.example/v1/messages",
        b"/v1//messages",
        b"/v1/messages//",
        b"/v1/./messages",
        b"/v1/../admin",
        b"/..",
        b"/v1/messages/.",
        b"/v1/%2e%2e/admin",
        b"/v1/%2E./admin",
        b"/v1/.%2e/admin",
        b"/v1/%2fadmin",
        b"/v1/%2Fadmin",
        b"/v1/%5cadmin",
        b"/v1/%5C..%5Cadmin",
        b"/v1\\admin",
        b"/v1/messages;x=1",
        b"/v1/messages%3bx=1",
        b"/v1/messages%00",
        b"/v1/messages%0d%0aHost:%20x",
        b"/v1/messages\x00",
        b"/v1/messages\r\nX: y",
        b"/v1/messages\t",
        b"/v1/messages x",
        b"/v1/messages%7f",
        b"/v1/messages%3Fkey=x",
        b"/v1/messages?key=x",
        b"/v1/messages%23",
        b"/v1/messages#x",
        b"/v1/%252e%252e/admin",
        b"/v1/%252fadmin",
        b"/v1/%c0%af/admin",
        b"/v1/%ef%bc%8fadmin",
        b"/v1/caf\xc3\xa9",
        b"/v1/%u002fadmin",
        b"/v1/%",
        b"/v1/%2",
        b"/v1/%zz",
        b'/v1/"x"',
        b"/v1/<x>",
        b"/v1/{x}",
        b"/v1/a|b",
        b"/v1/a^b`",
    ],
)
def test_hostile_paths(path: bytes) -> None:
    assert verdict(HOST, path=path) == (400, "bad_path")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"a/#@x",
        b"a/b",
        b"a#b",
        b"a?b",
        b"a@b",
        b"user:pass@host",
        b"a b",
        b"a,b",
        b"a\\b",
        b"a..b",
        b".a",
        b"a:",
        b"a:port",
        b"a:123456",
        b"a:80:80",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[evil]",
        b"a\xe9",
        b"a\x01",
        b"a%00",
        b"http://a",
        b"a" * 260,
        b"a." * 4000,
    ],
)
def test_hostile_hosts(value: bytes) -> None:
    assert verdict((b"host", value)) == (400, "bad_host")


@pytest.mark.parametrize(
    "value", [b"a", b"a:1", b"A-b.c.", b"my_service:80", b"10.0.0.1:8080", b"[::1]:8080", b"[::1]"]
)
def test_honest_hosts(value: bytes) -> None:
    assert verdict((b"host", value)) is None


CL = (b"content-length", b"5")
TE = (b"transfer-encoding", b"chunked")
BEARER = (b"authorization", b"Bearer a")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], (400, "bad_host")),
        ([CL], (400, "bad_host")),
        ([HOST, HOST], (400, "bad_host")),
        ([HOST, (b"Host", b"evil.example")], (400, "bad_host")),
        ([HOST, BEARER, BEARER], (400, "repeated_header")),
        ([HOST, BEARER, (b"Authorization", b"Bearer b")], (400, "repeated_header")),
        ([HOST, CL, CL], (400, "repeated_header")),
        ([HOST, CL, (b"content-length", b"6")], (400, "repeated_header")),
        ([HOST, (b"content-type", b"application/json"), (b"content-type", b"text/plain")], (400, "repeated_header")),
        ([HOST, (b"x-api-key", b"a"), (b"x-api-key", b"b")], (400, "repeated_header")),
        ([HOST, TE, TE], (400, "repeated_header")),
        ([HOST, (b"idempotency-key", b"a"), (b"idempotency-key", b"b")], (400, "repeated_header")),
        ([HOST, (b"x-llmguard-context", b"a"), (b"x-llmguard-context", b"b")], (400, "repeated_header")),
        ([HOST, (b"x-llmguard-made-up", b"a"), (b"x-llmguard-made-up", b"b")], (400, "repeated_header")),
        ([HOST, CL, TE], (400, "bad_framing")),
        ([HOST, TE, CL], (400, "bad_framing")),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], (400, "bad_framing")),
        ([HOST, (b"transfer-encoding", b"chunked, identity")], (400, "bad_framing")),
        ([HOST, (b"transfer-encoding", b"identity")], (400, "bad_framing")),
        ([HOST, (b"transfer-encoding", b"xchunked")], (400, "bad_framing")),
        ([HOST, (b"transfer-encoding", b"\x0bchunked")], (400, "bad_framing")),
        ([HOST, (b"transfer-encoding", b"")], (400, "bad_framing")),
        ([HOST, (b"content-length", b"")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"+5")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"-5")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"5 ")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"0x5")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"5, 5")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"5_0")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"\xb2")], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"9" * 5000)], (400, "bad_content_length")),
        ([HOST, (b"content-length", b"10485761")], (413, "body_too_large")),
        ([HOST, (b"x_api_key", b"a")], (400, "bad_header_name")),
        ([HOST, (b"content_length", b"5")], (400, "bad_header_name")),
        ([HOST, (b"x-llmguard_team", b"a")], (400, "bad_header_name")),
        ([HOST, (b"", b"a")], (400, "bad_header_name")),
        ([HOST, (b"x y", b"a")], (400, "bad_header_name")),
        ([HOST, (b"content-length ", b"5")], (400, "bad_header_name")),
        ([HOST, (b"x:", b"a")], (400, "bad_header_name")),
        ([HOST, (b"x\x00", b"a")], (400, "bad_header_value")),
        ([HOST, (b"x\r\ny", b"a")], (400, "bad_header_value")),
        ([HOST, (b"x-\xc3\xa9", b"a")], (400, "bad_header_name")),
        ([HOST, (b"x", b"a\r\nauthorization: Bearer b")], (400, "bad_header_value")),
        ([HOST, (b"x", b"a\nb")], (400, "bad_header_value")),
        ([HOST, (b"x", b"a\rb")], (400, "bad_header_value")),
        ([HOST, (b"x", b"\x00")], (400, "bad_header_value")),
        ([HOST, (b"x", b"a" * 33_000)], (431, "headers_too_large")),
        ([HOST, (b"x" * 33_000, b"a")], (431, "headers_too_large")),
        ([HOST, *[(b"x-%d" % n, b"") for n in range(100)]], (431, "headers_too_large")),
        ([HOST, (b"expect", b"200-ok")], (417, "expectation_failed")),
        ([HOST, (b"expect", b"100-continue, x")], (417, "expectation_failed")),
        ([HOST, (b"upgrade", b"h2c"), (b"connection", b"upgrade")], (400, "upgrade_refused")),
        ([HOST, (b"upgrade", b"websocket")], (400, "upgrade_refused")),
        ([HOST, (b"content-encoding", b"gzip")], (415, "unsupported_content_encoding")),
        ([HOST, (b"content-encoding", b"zstd")], (415, "unsupported_content_encoding")),
        ([HOST, (b"content-encoding", b"gzip, gzip")], (415, "unsupported_content_encoding")),
        ([HOST, (b"content-encoding", b"identity, br")], (415, "unsupported_content_encoding")),
        ([HOST, BEARER, (b"x-api-key", b"b")], (400, "two_keys")),
        ([HOST, (b"authorization", b"Basic a"), (b"x-api-key", b"a")], (400, "two_keys")),
        ([HOST, (b"x-goog-api-key", b"a"), (b"api-key", b"b")], (400, "two_keys")),
        ([HOST, BEARER, (b"x-api-key", b"")], (400, "two_keys")),
    ],
)
def test_hostile_headers(headers: list[Pair], expected: tuple[int, str]) -> None:
    assert verdict(*headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [(b"expect", b"100-Continue")],
        [(b"content-encoding", b"identity")],
        [(b"transfer-encoding", b"Chunked")],
        [(b"content-length", b"10485760")],
        [(b"x", b"")],
        [(b"x", b"tab\there")],
    ],
)
def test_honest_headers(headers: list[Pair]) -> None:
    assert verdict(HOST, *headers) is None


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "TRACK", "PRI", "get", "", "GET\r\n", "PROPFIND"])
def test_hostile_methods(method: str) -> None:
    assert verdict(HOST, method=method) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b"key=AIza", "key_in_query"),
        (b"alt=sse&key=AIza", "key_in_query"),
        (b"KEY=a", "key_in_query"),
        (b"%6b%65%79=a", "key_in_query"),
        (b"k%65y=a", "key_in_query"),
        (b"key", "key_in_query"),
        (b"api_key=a", "key_in_query"),
        (b"api-key=a", "key_in_query"),
        (b"apikey=a", "key_in_query"),
        (b"access_token=a", "key_in_query"),
        (b"a=1&&x-goog-api-key=b", "key_in_query"),
        (b"a=1;key=b", "bad_query"),
        (b"a=\x00", "bad_query"),
        (b"a=b c", "bad_query"),
        (b"a=\r\nb", "bad_query"),
        (b"a=#", "bad_query"),
        (b"a=\xff", "bad_query"),
        (b'a="', "bad_query"),
    ],
)
def test_hostile_queries(query: bytes, code: str) -> None:
    assert verdict(HOST, query=query) == (400, code)


def test_refusals_repeat_no_secret() -> None:
    for found in (
        check_head("POST", b"/", b"key=SECRET", [HOST], LIMITS),
        check_head("POST", b"/", b"", [HOST, BEARER, (b"x-api-key", b"SECRET")], LIMITS),
        check_head("POST", b"/SECRET//", b"", [HOST], LIMITS),
    ):
        assert isinstance(found, Violation)
        assert "SECRET" not in found.message


def test_naughty_strings_never_crash_the_edge() -> None:
    file = CORPORA / "security" / "blns.json"
    if not file.exists():
        pytest.skip(f"the list of naughty strings is not at {file}")
    seen = 0
    for text in json.loads(file.read_text(encoding="utf-8")):
        raw = text.encode("utf-8", "surrogatepass")
        for headers in ([(b"x-llmguard-metadata", raw)], [(raw, b"x")], [(b"authorization", b"Bearer " + raw)]):
            head = check_head("POST", b"/v1/messages", b"", [HOST, *headers], LIMITS)
            if isinstance(head, dict):
                seen += 1
                credential(head)
                assert not {b"authorization", b"x-llmguard-metadata"} & {
                    n
                    for n, _ in outgoing_headers([(k.encode(), v.encode("latin-1")) for k, v in head.items()], "openai")
                }
                assert not any("\r" in value or "\n" in value for value in head.values())
        for path, query in ((b"/" + raw, b""), (b"/", raw)):
            found = check_head("POST", path, query, [HOST], LIMITS)
            assert isinstance(found, Violation) or (path + query).isascii()
        assert "key=" not in outgoing_query(text, "gemini")
    assert seen > 500


def test_random_bytes_never_crash_the_edge() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(2000):
        headers = [(rng.randbytes(rng.randrange(6)), rng.randbytes(rng.randrange(12))) for _ in range(rng.randrange(5))]
        found = check_head("GET", b"/" + rng.randbytes(3), rng.randbytes(rng.randrange(4)), [HOST, *headers], LIMITS)
        assert isinstance(found, Violation | dict)
