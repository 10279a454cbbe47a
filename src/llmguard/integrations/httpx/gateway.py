"""Calls to a gateway of our own: it guards them itself, and only has to hear, signed, who calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmguard.core.call import Caller
from llmguard.core.decision import Refuse
from llmguard.core.signed import HEADER, HTTP, Signed, Signer
from llmguard.integrations.httpx.backoff import Kind
from llmguard.integrations.httpx.inside import Inside, hear
from llmguard.integrations.httpx.libraries import Library
from llmguard.integrations.httpx.waits import Body, Collect, Flow, Forward, Sleep
from llmguard.runtime.ids import now_ms

_SMALL: Final = 64 * 1024


def to_gateway(library: Library, inside: Inside, signer: Signer, request: Any, caller: Caller) -> Flow[Any]:
    """Sign a request and send it; wait where the gateway asks for a moment's patience."""
    yield Body(request)  # so that it can be sent again
    kind: Kind = ("gateway", caller.team, caller.feature)
    waited = inside.backoff.before(kind)
    if waited:
        yield Sleep(waited)
    while True:
        request.headers[HEADER] = signer.sign(Signed.of(caller), HTTP, now_ms())
        response = yield from _send(library, inside, request, caller)
        pause = _pause(inside, kind, response.headers, waited) if response.status_code == 429 else None
        if pause is None:
            break
        yield Collect(response.stream, _SMALL)
        yield Sleep(pause)
        waited += pause
    if _is_refusal(response.headers) and response.headers.get("x-should-retry") == "false":
        yield from hear(caller, f"the gateway answered {response.status_code}")
    elif response.status_code < 300:
        inside.backoff.went(kind)
        if response.headers.get("x-llmguard-cost-usd") != "0":
            inside.paid(caller)
    return response


def _send(library: Library, inside: Inside, request: Any, caller: Caller) -> Flow[Any]:
    try:
        return (yield Forward(request))
    except library.unsent:
        raise
    except BaseException:
        inside.paid(caller)  # it may have been billed
        raise


def _is_refusal(headers: Mapping[str, str]) -> bool:
    """Whether the gateway answered for itself: what it passes on says which target it comes from."""
    return "x-llmguard-request-id" in headers and "x-llmguard-target" not in headers


def _pause(inside: Inside, kind: Kind, headers: Mapping[str, str], waited: float) -> float | None:
    seconds = headers.get("retry-after", "")
    if not _is_refusal(headers) or "x-should-retry" in headers or not seconds.isdigit():
        return None
    return inside.backoff.refused(kind, Refuse("rate_limited", 429, "", retry_after=int(seconds)), waited)
