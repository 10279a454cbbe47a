"""Alerts over HTTP: one POST each, signed, so that the receiver can tell a real one from a forged or replayed one.

The header ``x-llmguard-signature`` is ``t=<unix seconds>,v1=<hex>``: an HMAC-SHA256 over ``<unix seconds>.<body>``.
While a signing secret is being replaced there is one ``v1`` for each, the new one first. The receiver's key is made of
the signing secret and is good for nothing else (:func:`alert_key`). A receiver refuses a ``t`` that is more than
:data:`REPLAY_SECONDS` away from its clock, and drops an ``id`` that it has seen: a delivery whose answer was lost is
repeated with the same ``id``.
"""

from __future__ import annotations

import hmac
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2

Kind = Literal["budget", "trip", "drift", "test"]

SIGNATURE = "x-llmguard-signature"
REPLAY_SECONDS = 300
"""How far a delivery's time may be from the receiver's clock."""

TIMEOUT = 5.0
"""Seconds for each of connecting, writing and waiting for the answer."""


class AlertFailed(Exception):
    """A receiver could not be reached or did not answer 2xx; the message never holds its address beyond the host."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What a receiver is told. ``text`` is a sentence for people, ``data`` the same for programs.

    ``id`` is the same for the same event, whichever process tells of it and however often. ``at`` is epoch ms.
    """

    id: str
    kind: Kind
    at: int
    text: str
    data: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The JSON document that is sent."""
        moment = datetime.fromtimestamp(self.at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"id": self.id, "type": self.kind, "created_at": moment, "text": self.text, "data": dict(self.data)}
        return json.dumps(document, ensure_ascii=False).encode()


def alert_key(signing: bytes) -> str:
    """The key that receivers verify with, as hexadecimal text whose characters are the key."""
    return hmac.digest(signing, b"llmguard alerts", "sha256").hex()


def signature(keys: Sequence[str], seconds: int, body: bytes) -> str:
    """The value of the signature header."""
    signed = b"%d." % seconds + body
    return ",".join([f"t={seconds}", *(f"v1={hmac.digest(key.encode(), signed, 'sha256').hex()}" for key in keys)])


class Webhook:
    """One receiver. ``keys`` sign, the first one being the newest; ``on`` are the kinds that it wants to hear of."""

    def __init__(
        self,
        url: str,
        on: Sequence[str],
        keys: Sequence[str],
        *,
        proxy: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.host = urlsplit(url).hostname or ""
        self._url = url
        self._on = frozenset(on) | {"test"}
        self._keys = tuple(keys)
        self._proxy = proxy
        self._clock = clock

    def __repr__(self) -> str:
        return f"Webhook({self.host!r})"

    def wants(self, kind: str) -> bool:
        """Whether this kind of alert goes there."""
        return kind in self._on

    @cached_property
    def _transport(self) -> httpx2.HTTPTransport:
        """A transport and not a client: that would write the address to the log, and knows redirects, cookies, .netrc.

        Alerts are rare, so each has a connection of its own: one that was kept might have gone stale in between.
        """
        trust = ssl.create_default_context()  # the system's authorities, as towards providers
        limits = httpx2.Limits(max_keepalive_connections=0)
        return httpx2.HTTPTransport(verify=trust, proxy=self._proxy, trust_env=False, limits=limits)

    def post(self, alert: Alert) -> None:
        """Deliver an alert, or raise :class:`AlertFailed`. Waits at most a few times :data:`TIMEOUT`."""
        body = alert.body
        headers = {"content-type": "application/json", "user-agent": "llmguard"}
        headers[SIGNATURE] = signature(self._keys, int(self._clock()), body)
        patience = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT)
        try:
            request = httpx2.Request("POST", self._url, content=body, headers=headers, extensions={"timeout": patience})
            answer = self._transport.handle_request(request)
            answer.close()
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise AlertFailed(f"{self.host}: {type(error).__name__}") from error
        if not 200 <= answer.status_code < 300:
            raise AlertFailed(f"{self.host} answered {answer.status_code}")
