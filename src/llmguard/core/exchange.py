"""One call from its first byte to its record: a state machine whose moves are the table below.

An adapter runs ``open`` with a driver, sends the request (``dispatch`` just before its first byte), tells the
exchange the reply's head (``answer``), passes every chunk through ``feed``, and calls ``close`` exactly once, however
the call went. Whatever dies without ``close`` is covered by lease expiry and spool adoption.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum, auto
from typing import Protocol

from msgspec import Struct, field

from llmguard.core.buckets import Plan
from llmguard.core.cache import Tape
from llmguard.core.call import Attribution, Call, Caller, Edits, ObjectRef, Principal
from llmguard.core.decision import NOWHERE, Admit, Decision, Refuse, Replay, Target
from llmguard.core.effects import Emit, Spool, Steps
from llmguard.core.estimate import Estimate
from llmguard.core.money import Cost
from llmguard.core.moves import Hold
from llmguard.core.ports import Dialect, Quote, Reader
from llmguard.core.records import SentRecord
from llmguard.core.transcript import Transcript
from llmguard.core.usage import Source, Usage
from llmguard.core.watch import Watch


class State(IntEnum):
    """Where a call stands."""

    NEW = auto()
    ADMITTED = auto()
    SENT = auto()
    ANSWERED = auto()
    REFUSED = auto()
    CLOSED = auto()


class Ending(StrEnum):
    """Why a call was closed."""

    DONE = "done"
    UPSTREAM_FAILED = "upstream_failed"
    CALLER_GONE = "caller_gone"
    BUDGET_CUT = "budget_cut"


_MOVES: dict[tuple[State, str], State] = {
    (State.NEW, "admit"): State.ADMITTED,
    (State.NEW, "refuse"): State.REFUSED,
    (State.NEW, "close"): State.CLOSED,
    (State.ADMITTED, "dispatch"): State.SENT,
    (State.ADMITTED, "close"): State.CLOSED,
    (State.SENT, "recall"): State.ADMITTED,
    (State.SENT, "answer"): State.ANSWERED,
    (State.SENT, "close"): State.CLOSED,
    (State.ANSWERED, "close"): State.CLOSED,
    (State.REFUSED, "close"): State.CLOSED,
}


class Stage(Protocol):
    """One concern of a call, hooked into its opening, its running and its end. Stages hold no state of one call.

    ``passive`` stages have a say in the opening only.
    """

    passive: bool

    def open(self, x: Exchange) -> Steps[Refuse | Replay | None]:
        """Let the call go on (None) or answer it."""
        ...

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Look after a running stream whose ``due`` was raised; a refusal cuts it."""
        ...

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """The call is over. Must not wait for anything: only effects that a driver performs at once."""
        ...


class Pipeline:
    """The stages of a guard, in order, and which of them look after a running and an ending call."""

    __slots__ = ("closing", "opening", "running")

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.opening = tuple(stages)
        self.running = tuple(stage for stage in stages if not stage.passive)
        self.closing = tuple(reversed(self.running))


class Exchange(Struct, eq=False):
    """The state of one call. Each stage fills in its own fields and reads the others'.

    ``now`` is the adapter's clock in epoch milliseconds, set at every entry; ``admitted_at`` is the store's. ``caller``
    is set by doors inside the caller's process before :meth:`open`, in the gateway by what a signed header says.
    """

    call: Call
    dialect: Dialect
    stages: Pipeline
    event_id: str
    secret: str | None
    now: int
    attempt_id: str = ""
    opened_at: int = 0
    admitted_at: int = 0
    state: State = State.NEW
    who: Attribution = field(default_factory=Attribution)
    principal: Principal | None = None
    caller: Caller | None = None
    watch: Watch | None = None
    target: Target = NOWHERE
    quote: Quote | None = None
    plan: Plan | None = None
    estimate: Estimate | None = None
    holds: Sequence[Hold] = ()
    edits: Edits = Edits()
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    hold_written: bool = False
    reserved: bool = False
    estimate_nano: int = 0
    cap_nano: int = 0
    output_hold: int = 0
    reader: Reader | None = None
    status: int = 0
    answered_at: int | None = None
    first_byte_at: int | None = None
    bytes_out: int = 0
    due: bool = False
    next_partial: int = 0
    partial_at: int = 0
    usage: Usage | None = None
    source: Source = Source.HOLD
    cost: Cost | None = None
    tape: Tape | None = None
    transcript: Transcript | None = None
    cache: str | None = None
    saved_nano: int = 0

    def __post_init__(self) -> None:
        self.attempt_id = self.event_id  # the first attempt bears the call's own id
        self.opened_at = self.admitted_at = self.now

    def _move(self, event: str) -> None:
        state = _MOVES.get((self.state, event))
        if state is None:
            raise AssertionError(f"call {self.event_id}: {event} in state {self.state.name}")
        self.state = state

    def open(self, now: int) -> Steps[Decision]:
        """Take the call through its stages; the first that answers it decides."""
        self.now = now
        for stage in self.stages.opening:
            answer = yield from stage.open(self)
            if answer is not None:
                self._move("refuse")
                if isinstance(answer, Refuse):
                    yield Emit("refused", answer.code, self.who)
                return answer
        self._move("admit")
        return Admit(self.target, self.edits, self.headers)

    def dispatch(self) -> Spool:
        """The record that must be written before the first byte goes upstream."""
        self._move("dispatch")
        return Spool(SentRecord(self.event_id, self.attempt_id))

    def recall(self) -> None:
        """It has turned out that not a byte went upstream: as if the call had never been dispatched."""
        self._move("recall")

    def answer(self, status: int, now: int) -> Reader:
        """The reply's head has arrived; its bytes go through the reader (see :meth:`feed`)."""
        self._move("answer")
        self.now = self.answered_at = now
        self.status = status
        self.reader = self.dialect.reader(self.call, asked_usage=self.edits.ask_usage)
        self.partial_at = now
        return self.reader

    def whole(self, content_type: str, body: bytes, now: int) -> None:
        """The reply arrived in one piece."""
        assert self.reader is not None
        self.first_byte_at = self.now = now
        self.bytes_out = len(body)
        self.reader.whole(self.status, content_type, body)
        if self.tape is not None:
            self.tape.add(body)
        if self.transcript is not None:
            self.transcript.add(body)

    def feed(self, data: bytes, now: int) -> bytes:
        """Pass the next bytes of a stream through; afterwards ``due`` says whether :meth:`attend` has work."""
        reader = self.reader
        assert reader is not None
        self.now = now
        if self.first_byte_at is None:
            self.first_byte_at = now
        self.bytes_out += len(data)
        released = reader.feed(data)
        if self.tape is not None:
            self.tape.add(released)
        if self.transcript is not None:
            self.transcript.add(data)
        self.due = self.state is State.ANSWERED and (
            reader.generated > self.output_hold or self.bytes_out >= self.next_partial or now >= self.partial_at + 2_000
        )
        return released

    def attend(self) -> Steps[Refuse | None]:
        """Note progress and raise the hold of a running stream; a refusal means: cut it."""
        self.due = False
        for stage in self.stages.running:
            refusal = yield from stage.attend(self)
            if refusal is not None:
                yield Emit("cut", refusal.code, self.who)
                return refusal
        return None

    def close(self, ending: Ending, now: int) -> Steps[None]:
        """Record and settle the call. Never waits, so that no cancellation can come between."""
        if self.state is State.CLOSED:
            return
        self.now = now
        sent = self.state in (State.SENT, State.ANSWERED)
        for stage in self.stages.closing:
            yield from stage.close(self, ending)
        self._move("close")
        if sent:
            yield Emit("closed", ending, self.who)

    @property
    def sent(self) -> bool:
        """Whether a byte may have reached the provider."""
        return self.state in (State.SENT, State.ANSWERED)

    @property
    def created(self) -> list[ObjectRef]:
        """Objects that the reply made at the provider."""
        return self.reader.created if self.reader is not None and self.status < 400 else []
