"""The door for code that calls providers from within a process: guarded clients for every SDK."""

from __future__ import annotations

from llmguard.integrations.httpx.clients import async_http_client, http_client
from llmguard.integrations.httpx.patching import Report, instrument, uninstrument
from llmguard.integrations.httpx.refusals import Refusal, refusal
from llmguard.integrations.httpx.transports import async_transport, transport

__all__ = [
    "Refusal",
    "Report",
    "async_http_client",
    "async_transport",
    "http_client",
    "instrument",
    "refusal",
    "transport",
    "uninstrument",
]
