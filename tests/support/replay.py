"""Recorded interactions as calls to a running gateway, with what each must come back as.

A case is sent to `/{provider}/…`, where a provider of the gateway stands for each (recorded provider, family of API).
The upstream finds the recording by the call's `user-agent`, the one header of a caller's that reaches a provider as it
is.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmguard.core.call import ObjectRef, Request
from llmguard.errors import BadCall
from llmguard.guard import Guard
from llmguard.ledger.objects import Owner
from llmguard.providers import registry
from llmguard.providers.routes import RouteTable
from tests.support.upstream import Answer, Seen, answer, random_cuts, recorded

OPENAI_PATHS = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
ANTHROPIC_PATHS = {"messages": "/v1/messages", "messages.count_tokens": "/v1/messages/count_tokens"}
GEMINI_OPS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent")
OPS = (*OPENAI_PATHS, *ANTHROPIC_PATHS, *GEMINI_OPS)
OTHER_APIS = {
    ("embeddings", "cohere"): ("openai", "/v1/embed"),
    ("embeddings", "bedrock"): ("openai", "/model/m/invoke"),
}
"""Operations of APIs that no dialect speaks: they pass at a price per request."""
GEMINI_EMBEDDINGS = "/v1beta/models/{model}:embedContent"
REFUSED_FIELDS = {"responses": ("background",), "chat.completions": ("models", "preset")}
FEE_NANO = 10_000_000
INPUT_NANO, OUTPUT_NANO = 1_000, 4_000
FAST = 8
"""Pieces of a stream, at most, where it is not cut byte by byte."""
GAP = 0.0005
"""Seconds between two pieces, so that most reads see one."""

_MODEL_PATH = re.compile(r"(?:/v1beta)?(/.*models/[^/:]+:\w+)")
_DEPLOYMENT = re.compile(r"/{1,2}(openai/deployments/[^/]+/.+)")
_EVENT = re.compile(rb"(?:[^\n]+\n)+\n*|\n+|[^\n]+\Z")


@dataclass(frozen=True)
class Case:
    """One recording and the call that replays it. ``path`` and ``query`` are those under the provider's prefix."""

    record: Mapping[str, Any]
    provider: str
    family: str
    path: str
    query: str
    body: bytes

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def target(self) -> str:
        return f"/{self.provider}{self.path}" + (f"?{self.query}" if self.query else "")

    @property
    def streams(self) -> bool:
        return bool(self.record["stream_format"])

    @property
    def status(self) -> int:
        return int(self.record["response"]["status"])

    @property
    def passes_through(self) -> bool:
        return (self.record["op"], self.record["provider"]) in OTHER_APIS

    @property
    def usage(self) -> dict[str, Any] | None:
        return self.record["usage_expected"]

    @property
    def refused_param(self) -> str | None:
        """The field for which the guard refuses the request: it names a price nobody knows, or one to be paid later."""
        doc = json.loads(self.body)
        return next((name for name in REFUSED_FIELDS.get(self.record["op"], ()) if doc.get(name)), None)

    @property
    def content_type(self) -> str:
        """What the upstream says its reply is."""
        return next(value for name, value in recorded(self.record).headers if name == "content-type")

    @cached_property
    def reply(self) -> bytes:
        """The recorded body as the upstream sends it."""
        return b"".join(recorded(self.record).pieces)

    @cached_property
    def asks_usage(self) -> bool:
        """Whether the guard has to ask for usage: a chat stream whose caller did not."""
        if self.record["op"] not in ("chat.completions", "completions"):
            return False
        doc = json.loads(self.body)
        return bool(doc.get("stream")) and not (doc.get("stream_options") or {}).get("include_usage")

    @property
    def sent_on(self) -> Any:
        """The document that must reach the provider."""
        doc = json.loads(self.body)
        if self.asks_usage:
            doc["stream_options"] = (doc.get("stream_options") or {}) | {"include_usage": True}
        return doc

    @property
    def returned(self) -> bytes:
        """The body that must reach the caller: the recorded one, less the chunk that only the guard asked for."""
        if not (self.asks_usage and self.streams and self.status < 400):
            return self.reply
        return b"".join(event for event in _EVENT.findall(self.reply) if not _only_usage(event))


def _only_usage(event: bytes) -> bool:
    data = event.strip().removeprefix(b"data:").strip()
    if not data.startswith(b"{"):
        return False
    chunk = json.loads(data)
    return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


def cases(records: Iterable[Mapping[str, Any]]) -> list[Case]:
    """All recordings of the operations that a dialect speaks, and of embeddings of other APIs; reads are left out."""
    return [_case(r) for r in records if r["op"] in OPS and r["endpoint"]["method"] == "POST"]


def _case(record: Mapping[str, Any]) -> Case:
    path, _, query = (record["endpoint"]["path"] or "").partition("?")
    query = "&".join(pair for pair in query.split("&") if pair and not pair.startswith("key="))
    op, provider = record["op"], record["provider"]
    if (op, provider) in OTHER_APIS:
        family, path = OTHER_APIS[op, provider]
    elif op in ANTHROPIC_PATHS:
        family, path = "anthropic", ANTHROPIC_PATHS[op]
    elif op in GEMINI_OPS or (op, provider) == ("embeddings", "gemini"):
        family, path = "gemini", _gemini_path(record, path)
        if record["stream_format"] == "sse" and "alt=sse" not in query:
            query = "alt=sse"
    else:
        family = "openai"
        deployment = _DEPLOYMENT.fullmatch(path)
        path = f"/{deployment[1]}" if deployment else OPENAI_PATHS[op]
    return Case(record, f"{provider}-{family}", family, path, query, _body(record, family, path))


def _gemini_path(record: Mapping[str, Any], path: str) -> str:
    if record["op"] == "embeddings":
        return GEMINI_EMBEDDINGS.format(model=_model(record))
    match = _MODEL_PATH.fullmatch(path)
    assert match is not None, path
    return f"/v1beta{match[1]}" if match[1].startswith("/models/") else path


def _model(record: Mapping[str, Any]) -> str:
    return record["model"]["request"] or record["model"]["response"] or "m"


def _body(record: Mapping[str, Any], family: str, path: str) -> bytes:
    """The recorded body; where the source kept none or no model, the smallest one of the dialect."""
    request = record["request"]
    doc = request.get("body")
    if request["body_kind"] == "json" and (family != "openai" or "deployments" in path or doc.get("model")):
        return json.dumps(doc, ensure_ascii=False).encode()
    return json.dumps(_smallest(record, family)).encode()


def _smallest(record: Mapping[str, Any], family: str) -> dict[str, Any]:
    op, model, stream = record["op"], _model(record), bool(record["stream_format"])
    said = "Hello"
    if family == "gemini":
        content = {"parts": [{"text": said}]}
        return {"content": content} if op in ("embedContent", "embeddings") else {"contents": [content]}
    prompt: dict[str, Any] = {
        "chat.completions": {"messages": [{"role": "user", "content": said}], "stream": stream},
        "completions": {"prompt": said, "stream": stream},
        "responses": {"input": said, "stream": stream},
        "embeddings": {"input": said},
        "messages": {"messages": [{"role": "user", "content": said}], "max_tokens": 64, "stream": stream},
    }[op]
    return {"model": model} | prompt


def provider_config(every: Iterable[Case], origin: str) -> dict[str, Any]:
    """The gateway's `providers` and `prices`: all of them are the test upstream."""
    families = {case.provider: case.family for case in every}
    bases = {"openai": f"{origin}/v1", "anthropic": origin, "gemini": origin}
    providers: dict[str, Any] = {
        name: {
            "dialect": family,
            "base_url": origin if name.startswith("azure") else bases[family],
            "keys": [f"key-of-{name}"],
            "internal": True,
            "passthrough": "$0.01",
        }
        for name, family in sorted(families.items())
    }
    for family in set(families.values()):
        providers[next(name for name, own in families.items() if own == family)]["default"] = True
    return {"providers": providers, "prices": {f"{name}/*": {"input": "$1/M", "output": "$4/M"} for name in providers}}


def claim(guard: Guard, every: Iterable[Case], team: str) -> int:
    """Enter every object that the cases name as the team's own; how many there are."""
    every = list(every)
    routes = RouteTable({case.provider: case.family for case in every})
    named = {(case.provider, ref) for case in every for ref in _named(routes, case)}
    ledger = guard.ledger()
    ledger.make_ready()
    for provider, ref in sorted(named, key=str):
        ledger.objects.add(ref.kind, provider, ref.id, Owner("default", team, 0, None))
    ledger.close()
    return len(named)


def _named(routes: RouteTable, case: Case) -> Iterator[ObjectRef]:
    route = routes.match("POST", f"/{case.provider}{case.path}")
    assert route is not None, case.target
    yield from route.objects
    dialect = registry.dialect(route.dialect, route.family)
    try:
        yield from dialect.parse(
            Request("POST", route.path, case.query, {}, case.body), route.endpoint, route.model
        ).reads
    except BadCall:
        return


class Recordings:
    """Answers as the upstream: each call with its own recording, streams in random pieces."""

    def __init__(self, every: Iterable[Case], seed: int) -> None:
        self._cases = {case.id: case for case in every}
        self._seed = seed
        self.seen: dict[str, Seen] = {}

    def __call__(self, seen: Seen) -> Answer:
        """The recorded response, also when another one was asked for; 599 for an unknown call."""
        name = (seen.header("user-agent") or "").removeprefix("replay/")
        case = self._cases.get(name)
        if case is None:
            return answer(status=599, json_body={"unknown": name})
        self.seen[name] = seen
        if not case.streams:
            return recorded(case.record)
        return recorded(case.record, cuts=self._cuts(case), gap=GAP)

    def _cuts(self, case: Case) -> list[int]:
        size = len(case.reply)
        rng = random.Random(f"{self._seed} {case.id}")
        if size < 4_000 and rng.random() < 0.1:
            return random_cuts(size, rng.randrange(2**32), largest=3)
        at = sorted(rng.sample(range(1, size), min(size - 1, rng.randrange(FAST)))) if size > 1 else []
        return [b - a for a, b in zip([0, *at], [*at, size], strict=True)]


def same_but_masked(got: bytes, sent: bytes) -> bool:
    """Whether an error body is the recorded one, save for keys in it."""
    if got == sent:
        return True
    pattern = re.escape(got.decode()).replace(re.escape("***"), r"[^\s\"]+")
    return re.fullmatch(pattern, sent.decode()) is not None
