"""Two teams on one provider account: what one stored there, the other can neither see, use nor end.

Refused calls are not forwarded: the gateway counts those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types as gt

from tests.support.gateway import Gateway, gateway
from tests.support.sdks import Sdks, sdks

CONFIG = {"providers": {"sandbox": {"dialect": "sandbox", "passthrough": "$0.01"}}}
MODEL = "sandbox/echo"
FORM = ("notes.txt", b"Nobody else's business.", "text/plain")


@dataclass(frozen=True)
class World:
    """A gateway, the team that stores things, and another one; both also without an SDK."""

    served: Gateway
    owner: Sdks
    other: Sdks
    keys: dict[str, str]

    def forwarded(self) -> float:
        """How many calls went to the provider so far."""
        return self.served.metric("llmguard_calls_total")

    def raw(self, who: str, method: str, path: str, **fields: Any) -> httpx2.Response:
        """A request as an SDK would not write it."""
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return httpx2.request(method, self.served.url + path, headers=headers, **fields)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        served = stack.enter_context(gateway(tmp_path_factory.mktemp("tenants"), CONFIG))
        keys = {team: served.key(team) for team in ("owner", "other")}
        owner, other = (stack.enter_context(sdks(served.url, key)) for key in keys.values())
        yield World(served, owner, other, keys)


@pytest.fixture
def response(world: World) -> str:
    return str(world.owner.oai.responses.create(model=MODEL, input="Remember this.").id)


@pytest.fixture(scope="module")
def file(world: World) -> str:
    return str(world.owner.oai.files.create(file=FORM, purpose="user_data").id)


@pytest.fixture(scope="module")
def claude_file(world: World) -> str:
    return str(world.owner.ant.beta.files.upload(file=FORM).id)


def refused(world: World, error: type[Exception], code: str, call: Callable[[], Any]) -> None:
    """A call is refused with this error and not forwarded."""
    before = world.forwarded()
    with pytest.raises(error) as caught:
        call()
    said = caught.value.response.json()["error"]  # type: ignore[attr-defined]
    assert code in (said.get("code"), said.get("details", {}).get("error_code"))
    assert world.forwarded() == before


def hidden(world: World, call: Callable[[], Any]) -> None:
    """A call of OpenAI's SDK finds nothing, in the same words as for what never was."""
    refused(world, openai.NotFoundError, "object_not_found", call)


def test_the_owner_reads_continues_and_deletes_its_response(world: World, response: str) -> None:
    responses = world.owner.oai.responses
    assert responses.retrieve(response).id == response
    continued = responses.create(model=MODEL, input="And now?", previous_response_id=response)
    assert continued.usage.input_tokens > 6  # the earlier turn counts
    responses.delete(response)
    with pytest.raises(openai.NotFoundError):
        responses.retrieve(response)


def test_a_response_that_was_streamed_is_as_private(world: World) -> None:
    events = list(world.owner.oai.responses.create(model=MODEL, input="Remember this.", stream=True))
    streamed = events[-1].response.id
    hidden(world, lambda: world.other.oai.responses.retrieve(streamed))
    assert world.owner.oai.responses.retrieve(streamed).id == streamed


def test_another_team_neither_reads_continues_nor_deletes_it(world: World, response: str) -> None:
    responses = world.other.oai.responses
    hidden(world, lambda: responses.retrieve(response))
    hidden(world, lambda: responses.input_items.list(response))
    hidden(world, lambda: responses.cancel(response))
    hidden(world, lambda: responses.delete(response))
    hidden(world, lambda: responses.create(model=MODEL, input="And now?", previous_response_id=response))
    hidden(world, lambda: list(responses.create(model=MODEL, input="?", previous_response_id=response, stream=True)))
    assert world.owner.oai.responses.retrieve(response).id == response


@pytest.mark.parametrize("path", ["/v1/responses/{}", "/sandbox/v1/responses/{}", "/sandbox/responses/{}"])
def test_no_spelling_of_the_path_leads_to_it(world: World, response: str, path: str) -> None:
    assert world.raw("owner", "GET", path.format(response)).status_code == 200
    before = world.forwarded()
    for name in (response, response.replace("_", "%5F"), response.upper(), response + "%20"):
        reply = world.raw("other", "GET", path.format(name))
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "object_not_found")
    assert world.forwarded() == before


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"sandbox/echo","input":"?","previous_response_id":"%s"}',
        '{"model":"sandbox/echo","input":"?","previous\\u005fresponse_id":"%s"}',
        '{"model":"sandbox/echo","input":"?","previous_response_id":null,"previous_response_id":"%s"}',
    ],
    ids=["plain", "escaped", "twice"],
)
def test_no_spelling_of_the_body_continues_it(world: World, response: str, body: str) -> None:
    before = world.forwarded()
    reply = world.raw("other", "POST", "/v1/responses", content=body % response)
    assert reply.status_code in (400, 404)
    assert world.forwarded() == before


def test_the_owner_uses_its_files(world: World, file: str) -> None:
    files = world.owner.oai.files
    assert files.retrieve(file).filename == "notes.txt"
    assert files.content(file).read() == FORM[1]
    asked = [{"role": "user", "content": [{"type": "input_file", "file_id": file}]}]
    assert world.owner.oai.responses.create(model=MODEL, input=asked).status == "completed"
    gone = files.create(file=FORM, purpose="user_data").id
    assert files.delete(gone).deleted
    with pytest.raises(openai.NotFoundError):
        files.retrieve(gone)


def test_another_team_does_not_reach_them(world: World, file: str) -> None:
    oai = world.other.oai
    for call in (oai.files.retrieve, oai.files.content, oai.files.delete):
        hidden(world, lambda call=call: call(file))
    part = {"type": "input_file", "file_id": file}
    asked = [{"role": "user", "content": [part]}]
    hidden(world, lambda: oai.responses.create(model=MODEL, input=asked))
    asked = [{"role": "user", "content": [{"type": "file", "file": {"file_id": file}}]}]
    hidden(world, lambda: oai.chat.completions.create(model=MODEL, messages=asked))
    hidden(world, lambda: oai.batches.create(input_file_id=file, endpoint="/v1/responses", completion_window="24h"))


def test_nobody_lists_what_all_teams_stored(world: World, file: str) -> None:
    for sdk in (world.owner, world.other):
        refused(world, openai.PermissionDeniedError, "operation_forbidden", sdk.oai.files.list)
        refused(world, openai.PermissionDeniedError, "operation_forbidden", sdk.oai.batches.list)
        refused(world, anthropic.PermissionDeniedError, "operation_forbidden", sdk.ant.beta.files.list)
        with pytest.raises(genai.errors.ClientError, match="403"):
            list(sdk.gem.files.list())


def test_anthropics_files_are_as_private(world: World, claude_file: str) -> None:
    asked: Any = {"type": "document", "source": {"type": "file", "file_id": claude_file}}
    call = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": [asked]}]}
    assert world.owner.ant.beta.files.retrieve_metadata(claude_file).filename == "notes.txt"
    assert world.owner.ant.beta.messages.create(**call).stop_reason == "end_turn"
    ant = world.other.ant.beta
    for use in (ant.files.retrieve_metadata, ant.files.download, ant.files.delete):
        refused(world, anthropic.NotFoundError, "object_not_found", lambda use=use: use(claude_file))
    refused(world, anthropic.NotFoundError, "object_not_found", lambda: ant.messages.create(**call))


def test_nobody_uses_a_cached_content_that_no_team_made(world: World) -> None:
    before = world.forwarded()
    config = gt.GenerateContentConfig(cached_content="cachedContents/somebody-elses")
    with pytest.raises(genai.errors.ClientError) as caught:
        world.owner.gem.models.generate_content(model=MODEL, contents="Hello", config=config)
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
    assert world.forwarded() == before
