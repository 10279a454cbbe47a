"""A call as the guard sees it: parsed once by its dialect, then read by every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    from llmguard.core.runaway import Execution

UNATTRIBUTED = "unattributed"
DEFAULT_ORG = "default"


class Request(Struct, eq=False):
    """What an adapter read from its caller. Header names are lower-case; ``path`` is without query and mount prefix.

    ``query`` is the raw query string without the question mark.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object that lives at the provider (a response, a file, a cached content …)."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a verified key and the attribution that it allows. ``None`` in ``budget`` fields means no own rule."""

    key_id: str
    subject: str
    team: str
    env: str
    feature: str
    org: str = DEFAULT_ORG
    budget: str | None = None


class Attribution(Struct, eq=False):
    """Whom a call is charged to."""

    org: str = DEFAULT_ORG
    team: str = UNATTRIBUTED
    env: str = UNATTRIBUTED
    feature: str = UNATTRIBUTED
    end_user: str | None = None
    principal: str | None = None
    key_id: str | None = None
    task_id: str | None = None
    tree_id: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call from within this process, or who signed for one that came over HTTP; None: not said.

    ``tree_id`` is the root task or request that everything below it counts for, ``depth`` how many tasks lie between.
    ``samples`` is how many answers to one prompt are meant (n-best sampling). ``execution`` is the task body that is
    running, if any, ``left`` one that has ended and left this running: what its tree may do still holds.
    """

    org: str = DEFAULT_ORG
    team: str | None = None
    env: str | None = None
    feature: str | None = None
    end_user: str | None = None
    task_id: str | None = None
    tree_id: str | None = None
    trace_id: str | None = None
    depth: int = 0
    samples: int = 1
    execution: Execution | None = None
    left: Execution | None = None

    def living(self) -> Caller:
        """The same caller, for its tree only where the execution that it inherited has ended (a thread that outlives
        its task). What a stopped execution has left running stays stopped."""
        if self.execution is None or not self.execution.ended or self.execution.trip is not None:
            return self
        return replace(self, task_id=None, execution=None, left=self.execution)


class Call(Struct, eq=False):
    """One request, understood.

    ``doc`` is the decoded body (``None`` for a body no dialect understands). ``max_tokens`` is what the caller named;
    ``choices`` how many answers are generated (``n``). ``prompt_bytes`` is a strict upper bound of the prompt's tokens
    that costs nothing to know (a byte-level tokenizer never makes more tokens than bytes). ``extra_input_tokens`` is
    what the prompt costs beyond its text (images, audio, files), as a worst case. ``reads`` are objects at the
    provider that the body or path names; ``server_context`` says that such an object adds unseen input, which then
    counts as the model's whole context window. ``writes_cache`` says that the prompt may be billed at a dearer
    cache-write rate, ``audio`` that input or output may be audio, or input other media that have a rate of their own,
    ``hidden_output`` that output is billed which a stream does not show (reasoning), so that cutting the stream does
    not bound its cost. ``service_tier`` is the provider's tier of service that the caller asks for, in the provider's
    word. ``web_searches`` and ``file_searches`` are the most searches that tools of the provider may make for this
    call, 0 where it has none.
    ``op`` and ``upstream`` come from the route: what kind of operation it is (`generate`, `free`, `object`,
    `passthrough`) and the provider that its path names. ``raw_headers`` are the request's headers as they came.
    ``origin`` is the host that a call from within the process goes to where its provider has one for every customer.
    ``memo`` takes what anybody concludes from the head alone; calls with the same head share one where that is known.
    """

    dialect: str
    family: str
    endpoint: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    model: str
    doc: dict[str, Any] | None = None
    stream: bool = False
    max_tokens: int | None = None
    choices: int = 1
    generates: bool = True
    wants_usage_chunk: bool = True
    end_user: str | None = None
    prompt_bytes: int = 0
    extra_input_tokens: int = 0
    server_context: bool = False
    writes_cache: bool = False
    audio: bool = False
    hidden_output: bool = False
    service_tier: str | None = None
    web_searches: int = 0
    file_searches: int = 0
    reads: tuple[ObjectRef, ...] = ()
    creates: str | None = None
    deletes: ObjectRef | None = None
    metered: bool = True
    op: str = "generate"
    upstream: str | None = None
    origin: str = ""
    raw_headers: Sequence[tuple[bytes, bytes]] = ()
    memo: dict[Any, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


class Edits(Struct, frozen=True):
    """What the guard changes in a request body before it is forwarded; everything else stays byte for byte."""

    model: str | None = None
    max_tokens: int | None = None
    ask_usage: bool = False

    def __bool__(self) -> bool:
        return self.model is not None or self.max_tokens is not None or self.ask_usage
