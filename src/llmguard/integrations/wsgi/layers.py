"""The guard's concerns as separate WSGI middleware: ``app.wsgi_app = Authn(Quota(Meter(app.wsgi_app)))``."""

from __future__ import annotations

from collections.abc import Iterable

from llmguard.guard import Guard
from llmguard.integrations import layers
from llmguard.integrations.layers import LEFT, Left, misplaced
from llmguard.integrations.wsgi.app import StartResponse
from llmguard.integrations.wsgi.environ import Environ, decoded_path
from llmguard.integrations.wsgi.visit import Visit, desk_of


class Layer(layers.Layer):
    """See :class:`llmguard.integrations.layers.Layer`: what all layers take, and how they find each other.

    Whether the caller is still there while the application is silent, only the application can see.
    """

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        guard = self.guard
        visit: Visit | Left | None = environ.get(guard.scope_key)
        if visit is None:
            return self._receive(guard, environ, start_response)
        if isinstance(visit, Left):
            return self._inside(environ, start_response)
        if self in visit.chain.layers:
            return visit.pass_through(self, environ, start_response)
        raise misplaced(self)

    def _receive(self, guard: Guard, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """A request that no layer of this guard has seen: this one is the outermost."""
        chain, path = self.chain(guard), decoded_path(environ)
        if chain.leaves(path):
            environ[guard.scope_key] = LEFT
            return self._inside(environ, start_response)
        chosen = chain.chosen(path)
        if self not in chosen:
            return self._inside(environ, start_response)
        return Visit(desk_of(guard), chain, chosen).run(environ, start_response)

    def _inside(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body: Iterable[bytes] = self.app(environ, start_response)
        return body


class Authn(Layer):
    """Verifies the callers' keys and attributes their calls; also those that the application makes meanwhile."""

    concern = "authn"


class Quota(Layer):
    """Reserves before a call, settles after it, refuses what does not fit; with everything that takes: prices, tenancy,
    runaway rules, records."""

    concern = "quota"


class Cache(Layer):
    """Answers a call with what the same call was answered before; see `cache:` in the configuration."""

    concern = "cache"


class Meter(Layer):
    """Records what calls use and cost. On its own it counts towards the budgets and refuses nothing."""

    concern = "meter"


class Audit(Layer):
    """Keeps what calls say and hear; see `audit:` in the configuration."""

    concern = "audit"
