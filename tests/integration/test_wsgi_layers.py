"""The guard's layers around a model server under gunicorn: any order, other middleware between, the same rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import pytest

from llmguard import Guard
from llmguard.errors import ConfigError
from llmguard.integrations.wsgi import Authn, Quota
from tests.support.replies import COST, REPLY, USAGE, chat_stream
from tests.support.sight import entry_of
from tests.support.web_world import World, chat, hang_up_on_server, known_to, shared, wait_for_new, world_of

ORDERS = ["/1", "/2", "/3"]
WHOLE = b"".join(chat_stream(4, USAGE))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared(tmp_path_factory.mktemp("layers")) as common:
        application = "tests.support.wsgi_layered:application"
        with world_of(common, "gunicorn-gthread", application) as made:
            yield made


@pytest.fixture(params=ORDERS)
def world(request: pytest.FixtureRequest, served: World) -> World:
    return replace(served, prefix=request.param)


def test_a_call_is_answered_recorded_and_settled(world: World) -> None:
    reply = world.post(chat())
    assert (reply.status_code, reply.json()) == (200, REPLY), reply.text
    assert reply.headers["x-llmguard-cost-usd"] == "0.0065"
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["team"], entry["feature"], entry["status"]) == (COST, "search", "chat", 200)
    world.settled()


def test_refusals_reach_nobody(world: World) -> None:
    known = known_to(world)
    refused = world.post(chat(max_tokens=100), key=world.poor)
    assert refused.status_code in (403, 429)
    assert refused.json()["error"]["llmguard"]["scope"] == {"team": "poor", "feature": "little"}
    assert world.post(chat(), key="lg_prod_nobody").status_code == 401
    assert world.post({"messages": 3}).status_code == 400
    assert known_to(world) == known
    assert httpx2.get(world.server.url + world.prefix + "/stats").status_code == 200


def test_a_stream_arrives_while_it_is_written(world: World) -> None:
    with world.stream(chat(stream_options={"include_usage": True})) as reply:
        pieces = reply.iter_raw()
        first = next(pieces)
        first_at = time.monotonic()
        rest = b"".join(pieces)
    assert first + rest == WHOLE
    assert time.monotonic() - first_at > 0.2, "the first chunk came with the last"
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["stream"], entry["interrupted"]) == (COST, True, None)


def test_a_caller_who_leaves_is_recorded(world: World) -> None:
    known = known_to(world)
    body = chat(stream=True, messages=[{"role": "user", "content": "forever"}])
    hang_up_on_server(world, world.request(body), b"data:")
    (entry,) = wait_for_new(world, known)
    assert entry["interrupted"] == "caller_gone"
    world.settled()


def test_a_failing_application_is_recorded(world: World) -> None:
    known = known_to(world)
    assert world.post(chat(messages=[{"role": "user", "content": "fail"}])).status_code == 500
    (entry,) = wait_for_new(world, known)
    assert entry["interrupted"] == "upstream_failed"
    world.settled()


def test_the_application_s_own_calls_are_the_caller_s(world: World) -> None:
    assert world.post(chat(messages=[{"role": "user", "content": "whose"}])).text == "search"


def test_without_authn_the_context_says_who_calls(served: World) -> None:
    reply = replace(served, prefix="/inside").post(chat(), key="none")
    assert reply.status_code == 200, reply.text
    entry = entry_of(served.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["team"], entry["feature"], entry["cost_nano"]) == ("inside", "chat", COST)


def test_a_stream_that_is_drained_is_charged_by_its_usage(served: World) -> None:
    world = replace(served, prefix="/drained")
    known = known_to(world)
    body = chat(stream=True, stream_options={"include_usage": True})
    hang_up_on_server(world, world.request(body), b"data:")
    (entry,) = wait_for_new(world, known)
    assert (entry["cost_nano"], entry["usage_source"]) == (COST, "provider")


def test_a_gateway_inside_layers_runs_no_stage_twice(served: World) -> None:
    served.provider.reply(json_body=REPLY)
    known = known_to(served)
    assert replace(served, prefix="/gateway").post(chat()).status_code == 200
    new = wait_for_new(served, known)
    assert [(e["provider"], e["cost_nano"], e["interrupted"]) for e in new] == [("local", COST, None)]
    served.settled()


def test_a_layer_in_the_wrong_place_is_one_sentence(served: World) -> None:
    guard = Guard(str(served.served.path))
    with pytest.raises(ConfigError, match="Quota: it stands there twice; keep one Quota"):
        Quota(Authn(Quota(lambda environ, start: [], guard=guard), guard=guard), guard=guard)
