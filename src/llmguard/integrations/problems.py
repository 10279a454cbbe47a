"""A refusal that an application's own code met, told to whoever sent the request: problem+json (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from llmguard.errors import GuardUnavailable
from llmguard.integrations.httpx.refusals import Refusal, refusal

CONTENT_TYPE: Final = "application/problem+json"
_WAIT_S = 60
"""What to wait where the guard says nothing."""


class Problem(NamedTuple):
    """An answer: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes


def problem_of(error: BaseException) -> Problem | None:
    """How to answer a request whose code ended with ``error``; None for one that is not of the guard.

    503 where the application's own budget is gone, which its caller can do nothing about, and where the guard is not
    available. 429 where the rule is about that caller, an end user. Amounts and rules stay with the application.
    """
    said = refusal(error)
    if said is not None:
        return answer(said)
    if isinstance(error, GuardUnavailable):
        return _problem(503, "budgets cannot be looked at now", "guard_unavailable", _WAIT_S)
    return None


def answer(said: Refusal) -> Problem:
    """The same for a refusal that is already known."""
    wait = int(said.retry_after or _WAIT_S)
    if "end_user" in said.scope:
        return _problem(429, said.message, said.code, wait)
    return _problem(503, "no language model can be asked for now", said.code, wait)


def _problem(status: int, detail: str, code: str, wait: int) -> Problem:
    title = HTTPStatus(status).phrase
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    return Problem(status, {"content-type": CONTENT_TYPE, "retry-after": str(wait)}, json.dumps(document).encode())
