"""Which objects at the provider a body names and a reply makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmguard.core.call import ObjectRef, Request
from llmguard.providers.anthropic_messages import AnthropicMessages
from llmguard.providers.objects import ANTHROPIC, GEMINI, OPENAI, Names, bind, made, object_id, results
from llmguard.providers.routes import RouteTable
from llmguard.providers.unknown import Unknown

TABLE = RouteTable({"anthropic": "anthropic"})
STORES = {"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]}
THREAD = {"messages": [{"attachments": [{"file_id": "file-1"}]}]}


def named(names: Names, doc: dict[str, Any]) -> set[tuple[str, str]]:
    return {(ref.kind, ref.id) for ref in names.named(json.dumps(doc).encode(), doc)}


@pytest.mark.parametrize(
    ("doc", "refs"),
    [
        ({"model": "m", "input": "plain"}, set()),
        ({"previous_response_id": "resp_1"}, {("response", "resp_1")}),
        ({"conversation": "conv_1"}, {("conversation", "conv_1")}),
        ({"conversation": {"id": "conv_1"}}, {("conversation", "conv_1")}),
        ({"tools": [STORES]}, {("vector_store", "vs_1"), ("vector_store", "vs_2")}),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, {("container", "cntr_1")}),
        ({"tools": [{"container": {"type": "auto", "file_ids": ["file-1"]}}]}, {("file", "file-1")}),
        ({"items": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}, {("file", "file-1")}),
        ({"items": [{"type": "item_reference", "id": "msg_1"}]}, {("item", "msg_1")}),
        ({"input_file_id": "file-1", "metadata": {"file_id": "mine"}}, {("file", "file-1")}),
        ({"training_file": "file-1", "validation_file": None}, {("file", "file-1")}),
        ({"assistant_id": "asst_1", "thread": THREAD}, {("assistant", "asst_1"), ("file", "file-1")}),
        ({"video": {"id": "video_1"}}, {("video", "video_1")}),
        ({"file_id": 5, "file_ids": [None, {}, ["deep"], ""]}, set()),
    ],
)
def test_openai_bodies(doc: dict[str, Any], refs: set[tuple[str, str]]) -> None:
    assert named(OPENAI, doc) == refs


@pytest.mark.parametrize(
    ("names", "doc", "refs"),
    [
        (ANTHROPIC, {"requests": [{"params": {"container": "c1"}}]}, {("container", "c1")}),
        (ANTHROPIC, {"skills": [{"type": "custom", "skill_id": "s1"}]}, {("skill", "s1")}),
        (ANTHROPIC, {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}, set()),
        (ANTHROPIC, {"tools": [{"input_schema": {"properties": {"file_id": "x"}}}]}, set()),
        (GEMINI, {"batch": {"inputConfig": {"fileName": "files/f1"}}}, {("file", "f1")}),
        (GEMINI, {"previous_interaction_id": "i1"}, {("interaction", "i1")}),
        (GEMINI, {"tools": [{"functionDeclarations": [{"parameters": {"file_uri": "files/f1"}}]}]}, set()),
    ],
)
def test_bodies_of_the_other_families(names: Names, doc: dict[str, Any], refs: set[tuple[str, str]]) -> None:
    assert named(names, doc) == refs


def test_a_name_hidden_by_escapes_is_found() -> None:
    body = b'{"\\u0070revious_response_id":"resp_1"}'
    assert OPENAI.named(body, json.loads(body)) == (ObjectRef("response", "resp_1"),)


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("file", "file-abc", "file-abc"),
        ("file", "files/abc", "abc"),
        ("file", "https://generativelanguage.googleapis.com/v1beta/files/abc?alt=media", "abc"),
        ("file", "http://x@generativelanguage.googleapis.com:443/v1/files/abc", "abc"),
        ("file", "gs://bucket/files/abc", None),
        ("file", "https://example.com/files/abc", None),
        ("file", "GS://bucket/x", None),
        ("file", "ftp://example.com/abc", "abc"),
        ("cached_content", "projects/p/locations/l/cachedContents/c1", "c1"),
        ("cached_content", "c1", "c1"),
        ("container", "a/", "a/"),
    ],
)
def test_the_id_in_a_resource_name(kind: str, name: str, found: str | None) -> None:
    assert object_id(kind, name) == found


@pytest.mark.parametrize(
    ("kind", "reply", "refs"),
    [
        ("file", {"id": "file-1", "object": "file"}, ["file-1"]),
        ("file", {"file": {"name": "files/abc", "uri": "https://x"}}, ["abc"]),
        ("file", {"id": "upload_1", "file": {"id": "file-1"}}, ["file-1"]),
        ("thread", {"id": "run_1", "thread_id": "thread_1"}, ["thread_1"]),
        ("cached_content", {"name": "cachedContents/c1"}, ["c1"]),
        ("operation", {"name": "models/veo/operations/o1"}, ["o1"]),
        ("batch", {"id": 5}, []),
        ("batch", {}, []),
    ],
)
def test_what_a_reply_made(kind: str, reply: dict[str, Any], refs: list[str]) -> None:
    assert made(kind, reply) == [ObjectRef(kind, ref) for ref in refs]


def test_the_results_of_a_batch_are_its_teams() -> None:
    assert results({"output_file_id": "file-o", "error_file_id": None}) == [ObjectRef("file", "file-o")]
    assert results({"response": {"responsesFile": "files/r1"}}) == [ObjectRef("file", "r1")]
    assert results({"response": "x", "output_file_id": 1}) == []


def test_a_route_and_a_body_name_objects_together() -> None:
    route = TABLE.match("POST", "/anthropic/v1/messages")
    assert route is not None
    body = b'{"model":"m","container":"c1","messages":[]}'
    call = AnthropicMessages().parse(Request("POST", route.path, "", {}, body), route.endpoint, route.model)
    bind(call, route)
    assert (call.op, call.upstream, call.path, call.family) == ("generate", "anthropic", "/v1/messages", "anthropic")
    assert (call.reads, call.creates, call.deletes) == ((ObjectRef("container", "c1"),), None, None)


def test_what_is_deleted_is_checked_once_and_what_is_made_is_known_to_the_reader() -> None:
    unknown = Unknown(AnthropicMessages())
    file = ObjectRef("file", "f1")
    for method, path, reads, deletes, creates in [
        ("GET", "/v1/files/f1", (file,), None, None),
        ("DELETE", "/v1/files/f1", (), file, None),
        ("POST", "/v1/files", (), None, "file"),
    ]:
        route = TABLE.match(method, path, "anthropic")
        assert route is not None
        call = bind(unknown.parse(Request(method, route.path, "", {}), route.endpoint, route.model), route)
        assert (call.reads, call.deletes, call.creates) == (reads, deletes, creates)
        reader = unknown.reader(call, asked_usage=False)
        reader.whole(200, "application/json", b'{"id": "f2", "type": "file"}')
        assert reader.created == ([ObjectRef("file", "f2")] if creates else [])
