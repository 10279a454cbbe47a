"""A refusal that a view met, told to whoever sent the request: problem+json (RFC 9457)."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpResponse

from llmguard.integrations.httpx.refusals import Refusal

_BUSY_S = 60


def answer(said: Refusal) -> HttpResponse:
    """503 where the application's own budget is gone, which its caller can do nothing about; 429 where the rule is
    about that caller. Amounts stay with the application."""
    own = "end_user" in said.scope
    status = 429 if own else 503
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": "Too Many Requests" if own else "Service Unavailable",
        "status": status,
        "detail": said.message if own else "no language model can be asked for now",
        "code": said.code,
    }
    response = HttpResponse(json.dumps(document), status=status, content_type="application/problem+json")
    response["Retry-After"] = str(int(said.retry_after or _BUSY_S))
    return response
