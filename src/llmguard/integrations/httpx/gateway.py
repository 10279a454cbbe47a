"""Calls to a gateway of our own: it guards them itself, and only has to hear, signed, who calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from llmguard.core.call import Caller
from llmguard.core.decision import Refuse
from llmguard.core.signed import HEADER, HTTP, Signed, Signer
from llmguard.integrations.httpx.backoff import Backoff, Kind
from llmguard.integrations.httpx.inside import hear
from llmguard.integrations.httpx.libraries import Library
from llmguard.integrations.httpx.waits import Body, Collect, Flow, Forward, Sleep
from llmguard.runtime.ids import now_ms

_SMALL: Final = 64 * 1024


class Hop:
    """One call to the gateway. ``paid`` is called when it was billed, or may have been."""

    def __init__(self, backoff: Backoff, signer: Signer, caller: Caller, paid: Callable[[], None]) -> None:
        self._backoff = backoff
        self._signer = signer
        self._caller = caller
        self._paid = paid
        self._kind: Kind = ("gateway", caller.team, caller.feature)

    def way(self, library: Library, request: Any) -> Flow[Any]:
        """Sign the request and send it; wait where the gateway asks for a moment's patience."""
        yield Body(request)  # so that it can be sent again
        waited = self._backoff.before(self._kind)
        if waited:
            yield Sleep(waited)
        while True:
            request.headers[HEADER] = self._signer.sign(Signed.of(self._caller), HTTP, now_ms())
            response = yield from self._send(library, request)
            pause = self._pause(response.headers, waited) if response.status_code == 429 else None
            if pause is None:
                break
            yield Collect(response.stream, _SMALL)
            yield Sleep(pause)
            waited += pause
        yield from self._heed(response)
        return response

    def _send(self, library: Library, request: Any) -> Flow[Any]:
        try:
            return (yield Forward(request))
        except library.unsent:
            raise
        except BaseException:
            self._paid()  # it may have been billed
            raise

    def _heed(self, response: Any) -> Flow[None]:
        if _is_refusal(response.headers) and response.headers.get("x-should-retry") == "false":
            yield from hear(self._caller, f"the gateway answered {response.status_code}")
        elif response.status_code < 300:
            self._backoff.went(self._kind)
            if not _was_free(response.headers):
                self._paid()

    def _pause(self, headers: Mapping[str, str], waited: float) -> float | None:
        seconds = headers.get("retry-after", "")
        if not _is_refusal(headers) or "x-should-retry" in headers or not seconds.isdigit():
            return None
        refuse = Refuse("rate_limited", 429, "", retry_after=int(seconds))
        return self._backoff.refused(self._kind, refuse, waited)


def _was_free(headers: Mapping[str, str]) -> bool:
    """Whether the gateway says that the call cost nothing; of a stream it says only that it was kept."""
    return headers.get("x-llmguard-cost-usd") == "0" or headers.get("x-llmguard-cache", "").startswith("hit")


def _is_refusal(headers: Mapping[str, str]) -> bool:
    """Whether the gateway answered for itself: what it passes on says which target it comes from."""
    return "x-llmguard-request-id" in headers and "x-llmguard-target" not in headers
