"""Whom the LLM calls are charged to that an application makes while it answers a web request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llmguard.core.call import Caller
from llmguard.core.signed import HEADER, HTTP, Signed, Signer
from llmguard.guard import Guard, get_guard
from llmguard.runtime.context import Scope, carrying, context, current
from llmguard.runtime.ids import now_ms, uuid7

log = logging.getLogger("llmguard.context")

Attribution = Callable[[Any], Mapping[str, str | None]]
"""Says of a request (an ASGI scope, a WSGI environ, a framework's request) whose it is: some of `team`, `env`,
`feature` and `end_user`."""

CONTEXT_HEADER = HEADER


class RequestContext:
    """The attribution of requests. What ``attribution`` says comes before the fixed names, and both before what a
    signed context says that another service of ours has sent along.

    Each request is the root of a tree of its own, unless it came with one: rules for trees then count all calls that
    it leads to.
    """

    def __init__(self, guard: Guard | None, attribution: Attribution | None, names: Mapping[str, str | None]) -> None:
        self._guard = guard
        self._attribution = attribution
        self._names: dict[str, Any] = {name: value for name, value in names.items() if value is not None}
        context(**self._names)  # raises ValueError for a bad one
        self._signer: Signer | None = None

    def enter(self, request: Any, signed: str | None) -> Scope:
        """The scope in which a request is answered; ``signed`` is its header `x-llmguard-context`."""
        said = self._attribution(request) if self._attribution is not None else {}
        names = self._names | {name: value for name, value in said.items() if value is not None}
        outer = (self._read(signed) if signed is not None else None) or current()
        if outer.tree_id is None:
            outer = replace(outer, tree_id=uuid7())
        return carrying(context(**names).caller(outer))

    def _read(self, text: str) -> Caller | None:
        if self._signer is None:
            self._signer = (self._guard or get_guard()).signer()
        signed = self._signer.read(text, HTTP, now_ms())
        if isinstance(signed, Signed):
            return signed.caller()
        log.warning("a request's context is %s, and counts for nothing", signed)
        return None
