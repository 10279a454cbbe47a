"""What the layers of web applications have in common, whether ASGI or WSGI calls them.

A layer only declares what it is there for. The outermost one of a guard finds the others by walking ``.app``, takes a
request through the stages of all of them in their one order (:mod:`llmguard.stages.base`) and owns its end; the
innermost one reads the reply along. So any subset in any order is right, and other middleware may stand in between.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Literal

from llmguard.core.exchange import Exchange, Pipeline, Stage
from llmguard.errors import ConfigError, Problem
from llmguard.forward.engine import Headers
from llmguard.forward.relay import Reply, comes_whole, content_type
from llmguard.guard import Guard, get_guard
from llmguard.providers.routes import Op
from llmguard.proxy.front import Front, Head, Pairs
from llmguard.runtime.context import current
from llmguard.stages import attributed, audit, cache, meter, quota, route, runaway, tenancy

log = logging.getLogger("llmguard.layers")

Concern = Literal["authn", "quota", "cache", "meter", "audit"]
OnDisconnect = Literal["cancel", "drain"]

LLM_ROUTES: Final = (
    "/v1/*",
    "/v1beta/*",
    "/openai/*",
    "/anthropic/*",
    "/gemini/*",
    "/vertex/*",
    "/azure/*",
    "/bedrock/*",
)
"""The paths that SDKs call; layers let everything else pass unless told otherwise."""

_PRICED: Final = (route.Route, quota.Quota, meter.Meter)
_STAGES: Final[dict[Concern, tuple[type[Stage], ...]]] = {
    "authn": (),
    "quota": (*_PRICED, tenancy.Tenancy, runaway.Runaway),
    "cache": (*_PRICED, cache.Cache),
    "meter": _PRICED,
    "audit": (audit.Audit,),
}
"""The stages that each layer is there for, besides the first, which says whose call it is.

Quota settles what it has reserved and the cache knows what it saves, so both meter; without Quota calls count towards
the budgets and are refused nothing."""

_SECTIONS: Final[dict[Concern, tuple[type[Stage], str]]] = {
    "cache": (cache.Cache, "cache: {exact: {ttl: 1h}}"),
    "audit": (audit.Audit, "audit: {payloads: redacted}"),
}
"""What does nothing unless the configuration has a section for it."""

_DEEPEST = 100


class Routes:
    """Paths to be guarded: as they are, or with all that is below one that ends in ``/*``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        for pattern in self.patterns:
            if not pattern.startswith("/") or "*" in pattern.removesuffix("/*"):
                said = f"{pattern!r} is no path"
                raise ConfigError([Problem("routes", said, "write routes=['/v1/chat/completions', '/llm/*']")])
        self._exact = frozenset(p for p in self.patterns if not p.endswith("/*"))
        self._below = tuple(p[:-1] for p in self.patterns if p.endswith("/*"))

    def cover(self, path: str) -> bool:
        """Whether a decoded path is to be guarded, however it is written: nobody gets past by a detour."""
        if path in self._exact or path.startswith(self._below):
            return True
        plain = posixpath.normpath(path.replace("//", "/")) if "//" in path or "/." in path else path
        return plain is not path and (plain in self._exact or plain.startswith(self._below))

    def readings(self, raw: bytes) -> Iterator[bytes]:
        """What an undecoded path may mean as the path of an API: itself, or what is below a pattern."""
        yield raw
        for below in self._below:
            prefix = below[:-1].encode()
            if raw.startswith(prefix + b"/"):
                yield raw[len(prefix) :]


class Layer:
    """Declares one concern of the calls that pass through ``app``.

    ``guard`` is the default one where none is given. ``routes`` are the paths that count as LLM calls, as decoded and
    below the mount point, each whole or ending in ``/*``. ``on_disconnect`` says what becomes of a stream whose caller
    hangs up: `cancel` the application, or `drain` it for half a minute so that the provider's own usage is charged; by
    default what the configuration says for the provider. Raises ConfigError where it is used wrongly.
    """

    concern: ClassVar[Concern]

    def __init__(
        self,
        app: Any,
        *,
        guard: Guard | None = None,
        routes: Iterable[str] | None = None,
        on_disconnect: OnDisconnect | None = None,
    ) -> None:
        self.app = app
        self.routes = Routes(LLM_ROUTES if routes is None else routes)
        self.on_disconnect = on_disconnect
        self.given = guard
        self._chains: dict[int, Chain] = {}
        _check(self, guard)

    @property
    def guard(self) -> Guard:
        """Whose layer it is."""
        return get_guard() if self.given is None else self.given

    def chain(self, guard: Guard) -> Chain:
        """This layer and those of the same guard inside of it."""
        found = self._chains.get(id(guard))
        if found is None or found.guard is not guard:
            found = self._chains[id(guard)] = Chain(self, guard)
        return found


class Left:
    """Noted in the place of a request that its layers leave to a gateway further inside."""

    followed = False


LEFT: Final = Left()


class Chain:
    """The layers of a guard from one of them inward, found by walking ``.app``."""

    def __init__(self, outermost: Layer, guard: Guard) -> None:
        self.guard = guard
        inside = list(_walk(outermost))
        self.layers = [at for at in inside if isinstance(at, Layer) and at.guard is guard]
        self._gateways = tuple(_gateways(inside, guard, ""))
        self._runs = {layer: run for run in _runs(self.layers) for layer in run}

    def run(self, layer: Layer) -> Sequence[Layer]:
        """A layer and those around and inside of it with nothing in between: a request need not stop at each."""
        return self._runs[layer]

    def leaves(self, path: str) -> bool:
        """Whether a gateway of this guard further inside does everything itself; ``path`` as in :meth:`chosen`."""
        return bool(self._gateways) and path.startswith(self._gateways)

    def chosen(self, path: str) -> tuple[Layer, ...]:
        """The layers that a request is for, outermost first; ``path`` is the decoded one below the mount point."""
        return tuple([layer for layer in self.layers if layer.routes.cover(path)])


class Desk:
    """Where the layers of a guard make exchanges of requests, in one process or event loop."""

    def __init__(self, guard: Guard, owner: str) -> None:
        self._guard = guard
        self._owner = owner
        self._front = Front(guard)
        self._pipelines: dict[frozenset[Concern], Pipeline] = {}
        self.body_limit = self._front.limits.body

    def head(
        self, layers: Sequence[Layer], method: str, raw: bytes, query: bytes, headers: Pairs, event_id: str
    ) -> Head | Reply:
        """Check a head; ``raw`` is the undecoded path below the mount point. A reply is the final answer."""
        first: Reply | None = None
        for path in layers[0].routes.readings(raw):
            head = self._front.read(method, path, query, headers, event_id)
            if isinstance(head, Head):
                return head
            first = first or head
        assert first is not None
        return first

    def exchange(self, layers: Sequence[Layer], head: Head, body: bytes, event_id: str, now: int) -> Exchange | Reply:
        """The call that a request makes, not yet opened. A reply is the final answer."""
        call = self._front.call(head, body, event_id)
        if isinstance(call, Reply):
            return call
        concerns = frozenset(layer.concern for layer in layers)
        if head.route.op is Op.MODELS:  # a list costs nothing, but is not for everybody
            concerns &= {"authn"}
        secret = head.secret if "authn" in concerns else None
        pipeline = self._pipeline(concerns)
        x = Exchange(call, head.dialect, pipeline, event_id=event_id, secret=secret, now=now)
        if "authn" not in concerns:
            x.caller = current()
        return x

    def drains(self, layers: Sequence[Layer], provider: str) -> bool:
        """Whether a stream is read on when its caller has hung up."""
        said = next((layer.on_disconnect for layer in layers if layer.on_disconnect), None)
        if said is None and provider:
            said = self._guard.config.on_disconnect(provider)
        return said == "drain"

    def _pipeline(self, concerns: frozenset[Concern]) -> Pipeline:
        made = self._pipelines.get(concerns)
        if made is None:
            wanted = tuple({stage for concern in concerns for stage in _STAGES[concern]})
            first, *others = self._guard.stages(self._owner, enforcing="quota" in concerns)
            if "authn" not in concerns:
                first = attributed.Attributed()
            stages = [first, *(stage for stage in others if isinstance(stage, wanted))]
            _tell_of_idle(concerns, stages)
            made = self._pipelines[concerns] = Pipeline(stages)
        return made


def records(x: Exchange) -> bool:
    """Whether an exchange is followed to its end, and not only let in."""
    return bool(x.stages.closing)


def own_headers(x: Exchange) -> Headers:
    """What the guard adds to the head of an application's reply."""
    headers: Headers = [(b"x-llmguard-request-id", x.event_id.encode())]
    if x.target.provider:
        headers.append((b"x-llmguard-target", f"{x.target.provider}/{x.target.model}".encode("latin-1", "replace")))
    return [*headers, *x.headers]


def streams(x: Exchange, status: int, headers: Headers) -> bool:
    """Whether an application's reply is read event by event."""
    if comes_whole(x.call, status, headers):
        return False
    return x.call.stream or content_type(headers).startswith("text/event-stream")


def misplaced(layer: Layer) -> ConfigError:
    """What somebody is told whose layer is reached by a request, but cannot be found by the layers around it."""
    name = type(layer).__name__
    said = f"{name} stands behind something that hides it from the layers around it, such as a router"
    fix = f"put it next to them: Quota({name}(app)); only middleware that keeps what it wraps as .app may be between"
    return ConfigError([Problem(name, said, fix)])


def _tell_of_idle(concerns: Iterable[Concern], stages: Sequence[Stage]) -> None:
    for concern in concerns:
        stage, section = _SECTIONS.get(concern, (None, ""))
        if stage is not None and not any(isinstance(made, stage) for made in stages):
            log.warning("the layer %s does nothing: write `%s` in the configuration", stage.__name__, section)


def _check(layer: Layer, guard: object) -> None:
    name = type(layer).__name__
    if guard is not None and not isinstance(guard, Guard):
        fix = f"write {name}(app, guard=llmguard.Guard({guard!r}))"
        raise ConfigError([Problem(name, "guard= is no guard", fix)])
    if not callable(layer.app):
        fix = f"write {name}(app, guard=guard)"
        raise ConfigError([Problem(name, f"{type(layer.app).__name__} is no application", fix)])
    for at in _walk(layer.app):
        if type(at) is type(layer) and at.given is layer.given:
            raise ConfigError([Problem(name, "it stands there twice", f"keep one {name}")])


def _runs(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """The layers in groups of those that directly wrap each other."""
    run: list[Layer] = []
    for layer in layers:
        if run and run[-1].app is not layer:
            yield run
            run = []
        run.append(layer)
    yield run


def _walk(app: Any) -> Iterator[Any]:
    """An application and what it wraps, outermost first."""
    for _ in range(_DEEPEST):
        yield app
        app = getattr(app, "app", None)
        if app is None:
            return


def _gateways(apps: Iterable[Any], guard: Guard, path: str) -> Iterator[str]:
    """Below which paths ``apps``, of which each wraps the next, serve the gateway of this guard: itself, or mounted."""
    for app in apps:
        if getattr(app, "gateway_of", None) is guard:
            yield path + "/"
        routes = getattr(app, "routes", None)
        for mount in routes if isinstance(routes, list) else ():
            if hasattr(mount, "app") and isinstance(getattr(mount, "path", None), str):
                yield from _gateways(_walk(mount.app), guard, path + mount.path)
