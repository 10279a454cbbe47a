"""Objects at the provider that a request names or makes.

All tenants share one provider account, so an object belongs to the team that made it, and a request may name only its
own team's, in its path or anywhere in its body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmguard.core.call import Call, ObjectRef
from llmguard.providers.routes import Route

_ESCAPED_ASCII = b"\\u00"
"""Every way to spell a member's name other than plainly has this in it."""
_REFERENCE = "item_reference"
"""The type by which OpenAI's bodies name an item of any conversation by its `id` alone."""
_GOOGLE_FILE = re.compile(r"(?:files/|.*generativelanguage.*/files/)([^/:?#]+)", re.IGNORECASE | re.DOTALL)
_ELSEWHERE = re.compile(r"(?:gs|https?)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Names:
    """How the bodies of one family name objects.

    ``kinds`` maps a member to the kind it names, as a string, a list of them or an object with an ``id``. Below the
    members in ``opaque`` lies the caller's own data (tool arguments, schemas), which no provider looks into.
    """

    kinds: Mapping[str, str]
    opaque: frozenset[str]
    needles: tuple[bytes, ...] = field(init=False)
    folded: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        words = (_REFERENCE, *self.kinds)
        object.__setattr__(self, "needles", (*(b'"%s"' % word.encode() for word in words), _ESCAPED_ASCII))
        object.__setattr__(self, "folded", frozenset(name.lower() for name in self.kinds))

    def named(self, body: bytes, doc: dict[str, Any]) -> tuple[ObjectRef, ...]:
        """All objects that a body names; ``doc`` is ``body`` decoded. Costs a few searches when there are none."""
        for needle in self.needles:
            if needle in body:
                return tuple(dict.fromkeys(self.walk(doc)))
        return ()

    def walk(self, root: object) -> Iterator[ObjectRef]:
        """All objects that a decoded value names, at any depth, with repetitions."""
        waiting: list[Any] = [root]
        while waiting:
            node = waiting.pop()
            if type(node) is list:
                waiting.extend(node)
            elif type(node) is dict:
                yield from self._members(node)
                waiting.extend(value for name, value in node.items() if name not in self.opaque)

    def _members(self, node: dict[str, Any]) -> Iterator[ObjectRef]:
        if node.get("type") == _REFERENCE and type(node.get("id")) is str:
            yield ObjectRef("item", node["id"])
        for name, kind in self.kinds.items():
            value = node.get(name)
            if value is None or (kind == "skill" and node.get("type") in _BUILT_IN_SKILLS):
                continue
            for one in value if type(value) is list else (value,):
                ref = one.get("id") if type(one) is dict else one
                own = object_id(kind, ref) if type(ref) is str and ref else None
                if own is not None:
                    yield ObjectRef(kind, own)


_BUILT_IN_SKILLS = ("anthropic", "openai")
"""Skills of the provider itself, which belong to nobody."""

OPENAI = Names(
    {
        "assistant_id": "assistant",
        "batch_id": "batch",
        "container": "container",
        "container_id": "container",
        "conversation": "conversation",
        "conversation_id": "conversation",
        "file_id": "file",
        "file_ids": "file",
        "input_file_id": "file",
        "previous_response_id": "response",
        "response_id": "response",
        "skill_id": "skill",
        "thread_id": "thread",
        "training_file": "file",
        "validation_file": "file",
        "vector_store_id": "vector_store",
        "vector_store_ids": "vector_store",
        "video": "video",
        "video_id": "video",
    },
    frozenset({"arguments", "metadata", "parameters", "schema"}),
)
ANTHROPIC = Names(
    {"container": "container", "file_id": "file", "skill_id": "skill"},
    frozenset({"input", "input_schema", "metadata", "schema"}),
)
GEMINI = Names(
    {
        "cachedContent": "cached_content",
        "cached_content": "cached_content",
        "fileName": "file",
        "file_name": "file",
        "fileSearchStoreNames": "file_search_store",
        "file_search_store_names": "file_search_store",
        "fileUri": "file",
        "file_uri": "file",
        "previousInteractionId": "interaction",
        "previous_interaction_id": "interaction",
    },
    frozenset({"args", "labels", "parameters", "parametersJsonSchema", "parameters_json_schema", "response"})
    | {"responseJsonSchema", "responseSchema", "response_json_schema", "response_schema"},
)
NAMES: dict[str, Names] = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}
"""By family."""


def object_id(kind: str, name: str) -> str | None:
    """The id of an object from how a body, path or reply writes it: the last segment of Google's resource names.

    None for a file that does not lie at the provider (`gs://…`, a web page, a video): nobody's, so everybody's.
    """
    if kind == "file":
        google = _GOOGLE_FILE.match(name)
        if google is not None:
            return google[1]
        if _ELSEWHERE.match(name):
            return None
    return name.rpartition("/")[2] or name


def bind(call: Call, route: Route) -> Call:
    """Write into a parsed call what its route says: operation, provider, family, and the objects of its path.

    Afterwards ``reads`` and ``deletes`` are all objects that must belong to the caller's team, and ``creates`` is what
    a success makes.
    """
    call.op = route.op
    call.family = route.family
    call.upstream = route.upstream
    call.path = route.path
    call.creates = route.creates or call.creates
    call.deletes = route.deletes
    if route.objects:
        call.reads = tuple(dict.fromkeys((*(ref for ref in route.objects if ref != route.deletes), *call.reads)))
    return call


def made(kind: str, reply: Mapping[str, Any]) -> list[ObjectRef]:
    """The object that a successful reply says it made: under its kind, its kind's id, its id or its resource name."""
    inner = reply.get(kind)
    if isinstance(inner, dict):
        reply = inner
    for member in (f"{kind}_id", "id", "name"):
        name = reply.get(member)
        if isinstance(name, str) and name:
            return [ObjectRef(kind, name.rpartition("/")[2] or name)]
    return []


def results(reply: Mapping[str, Any]) -> list[ObjectRef]:
    """Files in which a finished batch says its results are: its team's, although nobody uploaded them."""
    names = [reply.get("output_file_id"), reply.get("error_file_id")]
    response = reply.get("response")
    if isinstance(response, dict):
        names.append(response.get("responsesFile"))
    return [ObjectRef("file", name.rpartition("/")[2] or name) for name in names if isinstance(name, str) and name]
