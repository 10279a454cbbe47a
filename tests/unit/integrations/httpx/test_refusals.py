"""What each SDK's exception says about a refusal, and what is none."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
import tenacity
from google import genai

from llmguard.core.decision import Refuse
from llmguard.forward.relay import refused
from llmguard.integrations.httpx.refusals import Refusal, refusal
from llmguard.providers import registry

SPENT = Refuse(
    "budget_exceeded",
    429,
    "the budget is spent",
    retry_after=60,
    should_retry=False,
    rule="hourly",
    scope={"team": "search"},
    unit="usd",
    limit=10_000_000,
    spent=10_000_000,
    held=0,
    reset_at=1_800_000_000_000,
)
EXPECTED = Refusal(
    code="budget_exceeded",
    message="the budget is spent",
    status=429,
    retry_after=60.0,
    should_retry=False,
    rule="hourly",
    scope={"team": "search"},
    unit="usd",
    limit="0.01",
    spent="0.01",
    held="0",
    reset_at="2027-01-15T08:00:00Z",
    request_id="r-1",
)


def reply(module: Any, dialect: str, family: str) -> Any:
    told = refused(registry.dialect(dialect, family), SPENT, "r-1")
    request = module.Request("POST", "https://example.com/v1")
    return module.Response(told.status, headers=told.headers, content=told.body, request=request)


def by_openai() -> BaseException:
    response = reply(httpx2, "openai_chat", "openai")
    return openai.OpenAI(api_key="x")._make_status_error_from_response(response)


def by_anthropic() -> BaseException:
    response = reply(httpx2, "anthropic_messages", "anthropic")
    return anthropic.Anthropic(api_key="x")._make_status_error_from_response(response)


def by_genai() -> BaseException:
    response = reply(httpx2, "gemini_generate", "gemini")
    return genai.errors.ClientError(429, response.json(), response)


def by_httpx2() -> BaseException:
    return _raised(reply(httpx2, "openai_chat", "openai"))


def by_httpx() -> BaseException:
    return _raised(reply(httpx, "openai_responses", "openai"))


def _raised(response: Any) -> BaseException:
    with pytest.raises((httpx2.HTTPStatusError, httpx.HTTPStatusError)) as caught:
        response.raise_for_status()
    return caught.value


@pytest.mark.parametrize("made", [by_openai, by_anthropic, by_genai, by_httpx2, by_httpx])
def test_every_sdks_exception_says_the_same(made: Any) -> None:
    assert refusal(made()) == EXPECTED


def test_an_error_that_wraps_another_is_looked_into() -> None:
    def fail() -> None:
        raise by_openai()

    with pytest.raises(tenacity.RetryError) as caught:
        tenacity.Retrying(stop=tenacity.stop_after_attempt(2))(fail)
    assert refusal(caught.value) == EXPECTED
    assert refusal(ExceptionGroup("several", [ValueError(), by_genai()])) == EXPECTED


def test_an_event_that_cut_a_stream_says_it_too() -> None:
    request = httpx2.Request("POST", "https://example.com/v1")
    body = {"message": "spent", "code": "budget_exceeded", "llmguard": {"rule": "hourly", "scope": {}}}
    said = refusal(openai.APIError("spent", request, body=body))
    assert said is not None
    assert (said.code, said.rule, said.status, said.retry_after) == ("budget_exceeded", "hourly", None, None)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        genai.errors.ClientError(429, {"error": {"code": 429, "message": "quota"}}, None),
        _raised(httpx2.Response(429, json={"error": {"message": "x"}}, request=httpx2.Request("GET", "https://e.com"))),
        _raised(httpx2.Response(500, content=b"\xff{", request=httpx2.Request("GET", "https://e.com"))),
        httpx2.ReadTimeout("slow"),
    ],
)
def test_other_errors_are_no_refusals(error: BaseException) -> None:
    assert refusal(error) is None


def test_errors_that_go_round_in_a_circle_are_looked_at_once() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert refusal(first) is None
