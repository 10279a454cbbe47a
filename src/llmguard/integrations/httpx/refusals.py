"""What an SDK's exception says about a refusal, read without importing any SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmguard.providers.base import read_loosely

_DEEP = 6


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the guard did not let a call through (or cut its stream); the codes are those of the table in the docs.

    ``retry_after`` is in seconds, None where waiting does not help or the guard did not say. ``limit``, ``spent`` and
    ``held`` are decimal numbers in ``unit`` (`usd`, `tokens`, `requests`), ``reset_at`` is ISO-8601 UTC.
    """

    code: str
    message: str
    status: int | None = None
    retry_after: float | None = None
    should_retry: bool = True
    rule: str | None = None
    scope: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    limit: str | None = None
    spent: str | None = None
    held: str | None = None
    reset_at: str | None = None
    request_id: str | None = None


def refusal(error: BaseException) -> Refusal | None:
    """The refusal that an exception of openai, anthropic, google-genai, httpx or httpx2 tells of, None for any other.

    Errors that wrap another (tenacity's, a framework's) are looked into, and so are groups.
    """
    for cause in _causes(error):
        for document in _documents(cause):
            said = _error_in(document)
            if said is not None:
                return _refusal(cause, said)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, those inside it, and those that it was raised from."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < _DEEP**2:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)
        waiting.extend(inner for inner in (cause.__cause__, cause.__context__) if inner is not None)


def _documents(error: BaseException) -> Iterator[Any]:
    """Where the SDKs keep what the reply said: `body` (openai, anthropic), `details` (google-genai), `response`."""
    for name in ("body", "details", "response_json"):
        yield getattr(error, name, None)
    response: Any = getattr(error, "response", None)
    if getattr(response, "is_closed", False) and hasattr(response, "headers"):
        try:
            yield read_loosely(response.content)
        except Exception:  # noqa: BLE001  a body that was never read says nothing, whatever its library raises for that
            return


def _error_in(document: Any, depth: int = _DEEP) -> Mapping[str, Any] | None:
    """The error object that has our `llmguard` object inside."""
    if not isinstance(document, Mapping) or depth == 0:
        return None
    if isinstance(document.get("llmguard"), Mapping):
        return document
    for name in ("error", "response"):
        found = _error_in(document.get(name), depth - 1)
        if found is not None:
            return found
    return None


def _refusal(error: BaseException, said: Mapping[str, Any]) -> Refusal:
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    seconds = headers.get("retry-after")
    details = said["llmguard"]
    told = {name: details.get(name) for name in ("rule", "unit", "limit", "spent", "held", "reset_at", "request_id")}
    return Refusal(
        code=_code(said),
        message=str(said.get("message", "")),
        status=getattr(response, "status_code", None) or getattr(response, "status", None),
        retry_after=float(seconds) if isinstance(seconds, str) and seconds.isdigit() else None,
        should_retry=headers.get("x-should-retry") != "false",
        scope=dict(details.get("scope") or {}),
        **told,
    )


def _code(said: Mapping[str, Any]) -> str:
    """Where each family has it: `code`, `details.error_code`, or the reason of a `google.rpc.ErrorInfo`."""
    details = said.get("details")
    if isinstance(details, Mapping) and isinstance(details.get("error_code"), str):
        return str(details["error_code"])
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(detail.get("reason"), str):
            return str(detail["reason"]).lower()
    return str(said.get("code", ""))
