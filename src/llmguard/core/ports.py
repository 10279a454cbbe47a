"""What the core expects of its plug-ins. Stages see plug-ins only through these protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmguard.core.call import Call, Edits, ObjectRef, Request
from llmguard.core.decision import Refuse, Target
from llmguard.core.money import Price
from llmguard.core.usage import Usage


class Reader(Protocol):
    """Reads one reply while it passes. One instance per reply; it answers the same however the bytes are cut.

    ``usage`` is None until the provider reported it. ``generated`` is the number of output tokens seen so far,
    estimated from the text that passed. ``finished`` is True once the dialect's terminal event was seen whole.
    ``failed`` is True when the stream carried an error event instead of an answer. ``service_tier`` is the tier that
    really served the call, None until the provider said so.
    """

    usage: Usage | None
    model: str | None
    service_tier: str | None
    finish_reason: str | None
    generated: int
    finished: bool
    failed: bool
    created: list[ObjectRef]

    def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Read a reply that arrived in one piece (any status; unparsable bodies leave ``usage`` None)."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of a stream and return those that may go to the caller now.

        The terminal event is held back (see :meth:`flush`), and so is the usage-only chunk the guard asked for, for
        good. Where nothing is held the very object that came in is returned.
        """
        ...

    def held(self) -> bytes:
        """What :meth:`flush` would return, which stays held."""
        ...

    def flush(self) -> bytes:
        """The bytes held back (terminal event, torn tail), once the call's record is written."""
        ...

    def cut(self, refuse: Refuse, request_id: str) -> bytes:
        """Bytes that end the stream correctly for this dialect after a refusal in mid-stream.

        Completes or drops a torn event first, so that the caller's parser sees whole events only.
        """
        ...


class Dialect(Protocol):
    """One wire format: parse a request, read a reply, render a refusal, end a stream."""

    name: str
    family: str

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request. ``endpoint`` is the route's template, ``model`` the name a path carried.

        Raises :class:`llmguard.errors.BadCall` with a message for the caller.
        """
        ...

    def texts(self, call: Call) -> Sequence[str]:
        """The prompt's text parts, for exact counting."""
        ...

    def overhead_tokens(self, call: Call) -> int:
        """Tokens that the wire format adds to the texts (message framing)."""
        ...

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The request body with ``edits`` made and nothing else changed."""
        ...

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader for the reply; ``asked_usage`` when the guard added the request for usage itself."""
        ...

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """The body of an error reply in this dialect's own shape, with the `llmguard` object inside."""
        ...


@dataclass(frozen=True, slots=True)
class Quote:
    """Price and limits of one model at one provider."""

    price: Price
    max_output: int
    context_window: int


class PriceBook(Protocol):
    """Looks up prices by configured provider name and model, the overlay first."""

    def quote(self, provider: str, model: str, tier: str | None = None) -> Quote:
        """The quote for a model; an unknown one gets the provider's dearest price with ``price.known`` False.

        ``tier`` is the provider's word for a tier of service, None for the plain one. One whose price is not known is
        quoted at the most that such a tier costs, likewise not ``known``; `auto` at the dearest that it may become.
        """
        ...


class Router(Protocol):
    """Picks the provider and the model name for a call, from configuration alone."""

    def target(self, call: Call) -> Target | Refuse:
        """The target of a call, or why there is none (`unknown_model`, no provider of the family)."""
        ...


class TokenCounter(Protocol):
    """Counts tokens offline."""

    def count(self, model: str, texts: Sequence[str]) -> int:
        """Exact count with the model's own tokenizer where it is known, else a close one."""
        ...
