"""What layers declare, how they find each other, and what somebody hears who puts them in the wrong place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

import llmguard
from llmguard.core.exchange import Pipeline
from llmguard.errors import ConfigError
from llmguard.guard import Guard
from llmguard.integrations.asgi import Audit, Authn, Cache, Lifespan, Meter, Quota, create_app
from llmguard.integrations.layers import Chain, Desk, Routes
from llmguard.stages.base import ORDER
from tests.support.inside import configuration


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    more = {"cache": {"exact": {"ttl": "1h"}}, "audit": {"payloads": "full"}}
    made = Guard(configuration(tmp_path, "http://127.0.0.1:9", **more))
    yield made
    made.close()


def stages_of(guard: Guard, *layers: type[Any]) -> list[str]:
    """The stages of an application with these layers, outermost first."""
    app: Any = upstream
    for layer in reversed(layers):
        app = GZipMiddleware(layer(app, guard=guard))
    chain = Chain(app.app, guard)
    desk = Desk(guard, "test")
    pipeline: Pipeline = desk._pipeline(frozenset(layer.concern for layer in chain.layers))
    return [type(stage).__name__.lower() for stage in pipeline.opening]


def test_the_order_of_the_layers_does_not_change_the_order_of_the_stages(guard: Guard) -> None:
    orders = [(Authn, Quota, Cache, Meter, Audit), (Audit, Meter, Cache, Quota, Authn), (Cache, Audit, Authn, Quota)]
    for layers in orders:
        assert tuple(stages_of(guard, *layers)) == ORDER


def test_absent_layers_do_nothing_and_quota_alone_settles(guard: Guard) -> None:
    assert stages_of(guard, Authn) == ["authn"]
    assert stages_of(guard, Quota) == ["attributed", "route", "tenancy", "runaway", "quota", "meter"]
    assert stages_of(guard, Meter) == ["attributed", "route", "quota", "meter"]
    assert stages_of(guard, Authn, Cache) == ["authn", "route", "cache", "quota", "meter"]
    assert stages_of(guard, Audit) == ["attributed", "audit"]


def test_layers_of_other_guards_are_not_found(guard: Guard, tmp_path: Path) -> None:
    other = Guard(configuration(tmp_path / "other", "http://127.0.0.1:9"))
    app = Quota(Meter(Quota(upstream, guard=other), guard=guard), guard=guard)
    assert [type(layer) for layer in Chain(app, guard).layers] == [Quota, Meter]
    assert [type(layer) for layer in Chain(app, other).layers] == [Quota]


def test_a_gateway_inside_the_layers_does_everything_itself(guard: Guard) -> None:
    assert Chain(Quota(Meter(create_app(guard), guard=guard), guard=guard), guard).leaves("/v1/messages")
    host = Starlette(routes=[Mount("/llm", routes=[Mount("/a", create_app(guard))]), Mount("/v1", upstream)])
    mounted = Chain(Quota(host, guard=guard, routes=["/llm/*", "/v1/*"]), guard)
    assert [path for path in ("/llm/a/v1/messages", "/llm/b/v1/messages", "/v1/x") if mounted.leaves(path)] == [
        "/llm/a/v1/messages"
    ]
    assert [type(layer) for layer in mounted.chosen("/llm/b/v1/messages")] == [Quota]


def test_routes_are_whole_paths_or_all_that_is_below_one() -> None:
    routes = Routes(["/v1/*", "/chat"])
    covered = (
        "/v1/messages",
        "/chat",
        "/x/../v1/messages",
        "//v1/messages",
        "/v1/./messages",
        "/v1/../v1/x",
        "/./chat",
    )
    assert [path for path in covered if not routes.cover(path)] == []
    assert [path for path in ("/", "/v1", "/v10/x", "/chat/x", "/x/v1/messages", "/stats") if routes.cover(path)] == []
    assert list(Routes(["/llm/*", "/v1/*"]).readings(b"/llm/v1/messages")) == [b"/llm/v1/messages", b"/v1/messages"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda g: Quota(None, guard=g), "Quota: NoneType is no application; write Quota(app, guard=guard)"),
        (
            lambda g: Authn(upstream, guard="llmguard.yaml"),  # type: ignore[arg-type]
            "Authn: guard= is no guard; write Authn(app, guard=llmguard.Guard('llmguard.yaml'))",
        ),
        (lambda g: Meter(Quota(Meter(upstream, guard=g), guard=g), guard=g), "Meter: it stands there twice; keep one"),
        (lambda g: Quota(upstream, guard=g, routes=["v1/*"]), "routes: 'v1/*' is no path; write routes=["),
        (
            lambda g: llmguard.create_app("llmguard.yaml", guard=g),
            "create_app: a configuration and a guard were given, and a guard has a configuration of its own",
        ),
    ],
)
def test_what_is_wrong_from_the_start_is_said_at_once(guard: Guard, make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(guard)
    assert str(raised.value).startswith(sentence)


SCOPE = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"", "headers": []}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"{}", "more_body": False}


def call(app: Any, **scope: Any) -> list[dict[str, Any]]:
    """What an application sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        await app({**SCOPE, **scope}, receive, send)

    asyncio.run(run())
    return sent


def hide(app: Any) -> Any:
    async def hidden(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return hidden


class Visited:
    """A request whose layers have charged it."""

    followed = True

    def __init__(self, guard: Guard) -> None:
        self.chain = Chain(Quota(upstream, guard=guard), guard)


def test_a_layer_that_others_cannot_find_says_where_it_belongs(guard: Guard) -> None:
    app = hide(Meter(upstream, guard=guard))
    with pytest.raises(ConfigError, match=r"Meter stands behind something that hides it .* put it next to them"):
        call(app, **{guard.scope_key: Visited(guard)})


def test_a_gateway_behind_layers_that_do_not_find_it_says_so(guard: Guard) -> None:
    with pytest.raises(ConfigError, match="put the layers around create_app"):
        call(create_app(guard), **{guard.scope_key: Visited(guard)})


def test_one_path_mounted_twice_is_said_with_the_first_request(guard: Guard) -> None:
    app = Starlette(routes=[Mount("/llm", create_app(guard)), Mount("/llm", create_app(guard))])
    with pytest.raises(ConfigError, match="/llm is mounted twice, and only the first is served; give each application"):
        call(app, path="/llm/livez", method="GET")


def test_a_forgotten_lifespan_is_said_once(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(guard)

    async def run(app: Any) -> None:
        for _ in range(3):
            await app({**SCOPE, "method": "GET", "path": "/livez"}, receive, hush)

    async def hush(message: Any) -> None:
        pass

    asyncio.run(run(app))
    assert caplog.text.count("write `app = guard.lifespan(app)`") == 1


def test_a_layer_without_its_section_says_what_to_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = Guard(configuration(tmp_path, "http://127.0.0.1:9"))
    assert stages_of(plain, Cache, Audit) == ["attributed", "route", "quota", "meter"]
    assert "the layer Cache does nothing: write `cache: {exact: {ttl: 1h}}`" in caplog.text
    assert "the layer Audit does nothing: write `audit: {payloads: redacted}`" in caplog.text


def test_whatever_is_no_request_passes(guard: Guard) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("websocket", "lifespan"):
        call(Authn(Quota(app, guard=guard), guard=guard), type=kind)
    assert seen == ["websocket", "lifespan"]


def lives(app: Any) -> list[str]:
    """What an application with a lifespan tells its server, from start to end."""
    said: list[str] = []

    async def run() -> None:
        heard = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

        async def hear() -> Any:
            return next(heard)

        async def say(message: Any) -> None:
            said.append(
                message["type"].removeprefix("lifespan.") + (":" + message["message"] if "message" in message else "")
            )

        await app({"type": "lifespan"}, hear, say)

    asyncio.run(run())
    return said


def test_a_lifespan_goes_round_that_of_its_application(guard: Guard) -> None:
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert guard.running() is not None
        order.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        order.append((await receive())["type"])
        assert guard.running() is not None
        await send({"type": "lifespan.shutdown.complete"})

    assert lives(Lifespan(app, guard)) == ["startup.complete", "shutdown.complete"]
    assert order == ["lifespan.startup", "lifespan.shutdown"]


def test_an_application_without_lifespan_gets_one(guard: Guard) -> None:
    async def django(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    for app in (django, silent):
        assert lives(guard.lifespan(app)) == ["startup.complete", "shutdown.complete"]


def test_an_application_that_fails_to_start_is_heard(guard: Guard) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        lives(guard.lifespan(app))
