"""The edge's ordinary work: heads that SDKs really send, credentials, and what passes out and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai

from llmguard.core.edge import (
    EdgeLimits,
    Violation,
    check_head,
    credential,
    outgoing_headers,
    outgoing_query,
    returning_headers,
)

LIMITS = EdgeLimits()
HOST = (b"host", b"llm.corp.example")
SDK_HEAD = [
    (b"host", b"127.0.0.1:8080"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"OpenAI/Python 3.57.0"),
    (b"x-stainless-lang", b"python"),
    (b"x-stainless-async", b"false"),
    (b"x-stainless-retry-count", b"0"),
    (b"authorization", b"Bearer lg_dev_1_secret"),
    (b"openai-organization", b"org-1"),
    (b"openai-project", b"proj-1"),
    (b"openai-beta", b"responses=experimental"),
    (b"cookie", b"session=1"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"x-llmguard-feature", b"chat"),
    (b"x-http-method-override", b"DELETE"),
    (b"content-length", b"17"),
]


def pairs(head: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as a server hands them over."""
    return [(name.encode(), value.encode("latin-1")) for name, value in head.items()]


def read(
    *more: tuple[bytes, bytes], method: str = "POST", path: bytes = b"/v1/messages", query: bytes = b""
) -> dict[str, str] | Violation:
    return check_head(method, path, query, [HOST, *more], LIMITS)


def test_a_good_head_is_returned_whole() -> None:
    head = check_head("POST", b"/v1/chat/completions", b"", SDK_HEAD, LIMITS)
    assert head == {name.decode(): value.decode() for name, value in SDK_HEAD}


def test_names_come_back_in_lower_case_and_values_as_latin_1() -> None:
    assert read((b"X-Title", b"caf\xe9"), (b"Content-Type", b"text/plain")) == {
        "host": "llm.corp.example",
        "x-title": "café",
        "content-type": "text/plain",
    }


def test_values_of_a_repeated_header_are_joined_in_order() -> None:
    head = read((b"anthropic-beta", b"a"), (b"x-tag", b"1"), (b"anthropic-beta", b"b, c"), (b"X-Tag", b"2"))
    assert head == {"host": "llm.corp.example", "anthropic-beta": "a, b, c", "x-tag": "1, 2"}


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/v1/messages/",
        b"/.well-known/openid-configuration",
        b"/v1beta/models/gemini-2.5-pro:streamGenerateContent",
        b"/v1/responses/resp_0a-1.b~c",
        b"/vertex/v1/projects/p/locations/us-central1/publishers/google/models/x@001:predict",
        b"/v1/models/anthropic.claude-v1%3A0",
        b"/v1/files/a%20b",
        b"/v1/...",
        b"/v1/a..b",
    ],
)
def test_unusual_but_plain_paths_pass(path: bytes) -> None:
    assert isinstance(read(path=path), dict)


def test_the_request_line_may_be_exactly_as_long_as_the_limit() -> None:
    rest = len("POST /?x= HTTP/1.1\r\n")
    fits, too_long = (b"x=" + b"a" * (8192 - rest + more) for more in (0, 1))
    assert isinstance(read(path=b"/", query=fits), dict)
    fault = read(path=b"/", query=too_long)
    assert isinstance(fault, Violation)
    assert fault.status == 414


def test_heads_may_be_exactly_as_large_as_the_limits() -> None:
    used = len("host: llm.corp.example\r\nx: \r\n")
    for more, good in ((0, True), (1, False)):
        assert isinstance(read((b"x", b"a" * (32768 - used + more))), dict) is good
        assert isinstance(read(*[(b"a", b"")] * (99 + more)), dict) is good


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer lg_1"}, "lg_1"),
        ({"authorization": "bearer  lg_1 "}, "lg_1"),
        ({"x-api-key": "lg_2"}, "lg_2"),
        ({"api-key": "lg_3"}, "lg_3"),
        ({"x-goog-api-key": "lg_4"}, "lg_4"),
        ({"authorization": "Basic bGc6eA=="}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "lg_1"}, None),
        ({"x-api-key": ""}, None),
        ({}, None),
    ],
)
def test_the_key_is_found_where_each_sdk_puts_it(headers: dict[str, str], key: str | None) -> None:
    assert credential(headers) == key


def test_the_same_key_twice_is_one_key() -> None:
    head = read((b"authorization", b"Bearer k"), (b"x-api-key", b"k"), (b"x-goog-api-key", b"k"))
    assert isinstance(head, dict)
    assert credential(head) == "k"


def test_only_listed_headers_go_out() -> None:
    head = check_head("POST", b"/v1/chat/completions", b"", SDK_HEAD, LIMITS)
    assert isinstance(head, dict)
    assert outgoing_headers(pairs(head), "openai") == [
        (b"accept", b"application/json"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"OpenAI/Python 3.57.0"),
        (b"x-stainless-lang", b"python"),
        (b"x-stainless-async", b"false"),
        (b"x-stainless-retry-count", b"0"),
        (b"openai-beta", b"responses=experimental"),
        (b"accept-encoding", b"identity"),
    ]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("openai", {b"openai-beta"}),
        ("anthropic", {b"anthropic-beta", b"anthropic-version"}),
        ("gemini", {b"x-goog-api-client"}),
        ("unheard-of", set()),
    ],
)
def test_each_family_gets_its_own_headers(family: str, names: set[bytes]) -> None:
    mixed = dict.fromkeys(["openai-beta", "anthropic-beta", "anthropic-version", "x-goog-api-client"], "1")
    mixed |= dict.fromkeys(["x-goog-user-project", "anthropic-workspace-id", "openai-project", "x-api-key"], "2")
    assert {name for name, _ in outgoing_headers(pairs(mixed), family)} == names | {b"accept-encoding"}


def test_an_idempotency_key_goes_out_only_as_the_teams_own() -> None:
    head = {"idempotency-key": "job-1"}
    assert (b"idempotency-key", b"job-1") not in outgoing_headers(pairs(head), "openai")
    assert len(outgoing_headers(pairs(head), "openai")) == 1
    keys = {dict(outgoing_headers(pairs(head), "openai", team))[b"idempotency-key"] for team in ("search", "ads")}
    assert keys == {sha256(f"{team}\0job-1".encode()).hexdigest().encode() for team in ("search", "ads")}


def test_only_listed_headers_come_back() -> None:
    upstream = [
        (b"content-type", b"application/json"),
        (b"content-length", b"12"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"set-cookie", b"a=b"),
        (b"server", b"cloudflare"),
        (b"openai-organization", b"acme"),
        (b"anthropic-organization-id", b"0"),
        (b"x-ratelimit-remaining-tokens", b"9"),
        (b"anthropic-ratelimit-tokens-limit", b"9"),
        (b"x-llmguard-cost-usd", b"0"),
        (b"location", b"http://169.254.169.254/"),
        (b"x-request-id", b"req_1"),
        (b"openai-processing-ms", b"5"),
        (b"retry-after", b"2"),
        (b"cache-control", b"no-cache"),
    ]
    assert returning_headers(upstream) == [
        (b"content-type", b"application/json"),
        (b"x-request-id", b"req_1"),
        (b"openai-processing-ms", b"5"),
        (b"retry-after", b"2"),
        (b"cache-control", b"no-cache"),
    ]


@pytest.mark.parametrize(
    ("query", "family", "out"),
    [
        ("", "openai", ""),
        ("beta=true", "anthropic", "beta=true"),
        ("beta=true", "openai", ""),
        ("alt=sse", "gemini", "alt=sse"),
        ("alt=proto", "gemini", ""),
        ("$alt=sse&$fields=candidates&fields=candidates&callback=x", "gemini", "$alt=sse"),
        ("alt=sse&alt=json", "gemini", "alt=sse"),
        ("api-version=2024-10-21&x=1", "openai", "api-version=2024-10-21"),
        ("include[]=a&limit=2&include[]=b", "openai", "include[]=a&include[]=b&limit=2"),
        ("include%5B%5D=a&include%5B%5D=b%26c", "openai", "include%5B%5D=a&include%5B%5D=b%26c"),
        ("limit=1&limit=2&l%69mit=3", "openai", "limit=1"),
        ("pageSize=5&pageToken=a", "gemini", "pageSize=5&pageToken=a"),
        ("after=a&order=asc&other=1", "unheard-of", "after=a&order=asc"),
        ("&&", "openai", ""),
    ],
)
def test_only_listed_parameters_go_out(query: str, family: str, out: str) -> None:
    assert outgoing_query(query, family) == out


def sent_by(use: Callable[[httpx2.Client], Any]) -> httpx2.Request:
    """The request that an SDK makes."""
    seen: list[httpx2.Request] = []

    def keep(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={})

    with httpx2.Client(transport=httpx2.MockTransport(keep)) as client:
        use(client)
    return seen[0]


def chat(client: httpx2.Client) -> Any:
    sdk = openai.OpenAI(
        api_key="SECRET", organization="o", project="p", base_url="http://llm.example/v1", http_client=client
    )
    return sdk.chat.completions.create(model="m", messages=[])


def azure(client: httpx2.Client) -> Any:
    sdk = openai.AzureOpenAI(
        api_key="SECRET", api_version="2024-10-21", azure_endpoint="http://llm.example", http_client=client
    )
    return sdk.chat.completions.create(model="m", messages=[])


def messages(client: httpx2.Client) -> Any:
    sdk = anthropic.Anthropic(api_key="SECRET", base_url="http://llm.example", http_client=client)
    return sdk.beta.messages.create(model="m", max_tokens=1, messages=[], betas=["a-1", "b-2"])


def gemini(client: httpx2.Client) -> Any:
    options = genai.types.HttpOptions(base_url="http://llm.example", httpx_client=client, timeout=5000)
    sdk = genai.Client(api_key="SECRET", http_options=options)
    return list(sdk.models.generate_content_stream(model="m", contents="x"))


@pytest.mark.parametrize(
    ("use", "family", "query", "expected"),
    [
        (chat, "openai", "", {b"x-stainless-retry-count", b"x-stainless-read-timeout"}),
        (azure, "openai", "api-version=2024-10-21", {b"x-stainless-lang"}),
        (messages, "anthropic", "", {b"anthropic-version", b"anthropic-beta", b"x-stainless-timeout"}),
        (gemini, "gemini", "alt=sse", {b"x-goog-api-client", b"x-server-timeout"}),
    ],
)
def test_what_the_sdks_send_passes_and_no_key_goes_on(
    use: Callable[[httpx2.Client], Any], family: str, query: str, expected: set[bytes]
) -> None:
    request = sent_by(use)
    path, _, raw_query = request.url.raw_path.partition(b"?")
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    head = check_head(request.method, path, raw_query, headers, LIMITS)
    assert isinstance(head, dict)
    assert credential(head) == "SECRET"
    out = outgoing_headers(pairs(head), family)
    assert expected <= {name for name, _ in out}
    assert not {b"openai-organization", b"openai-project", b"authorization", b"host"} & {name for name, _ in out}
    assert b"SECRET" not in b"".join(value for _, value in out)
    assert outgoing_query(raw_query.decode(), family) == query
