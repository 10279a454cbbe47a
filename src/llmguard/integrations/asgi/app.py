"""The gateway as an ASGI application to mount or to serve, and the wrapper that gives a guard its life."""

from __future__ import annotations

from llmguard.config.loading import Source
from llmguard.errors import ConfigError, Problem
from llmguard.guard import Guard, get_guard
from llmguard.proxy.main import Application
from llmguard.runtime import lifespan
from llmguard.runtime.lifespan import ASGI


def create_app(source: Guard | Source = None, *, guard: Guard | None = None) -> Application:
    """The gateway for ASGI servers and frameworks; ``source`` is a guard, or a configuration, or None for the default
    guard.

    ::

        app.mount("/llm", llmguard.create_app(guard))    # FastAPI, Starlette: below any path, several times
        app = guard.lifespan(app)                        # once, around all of it

    It starts with the lifespan of its server, else with the first request, in each process and event loop for itself.
    Raises ConfigError.
    """
    if guard is not None and source is not None:
        said = "a configuration and a guard were given, and a guard has a configuration of its own"
        raise ConfigError([Problem("create_app", said, "write create_app(guard) or create_app('llmguard.yaml')")])
    chosen = source if guard is None else guard
    if chosen is None:
        return Application(get_guard())
    return Application(chosen if isinstance(chosen, Guard) else Guard(chosen))


class Lifespan(lifespan.Lifespan):
    """Starts a guard before an ASGI application and ends it after: ``app = Lifespan(app)``.

    ``guard`` is the default one where none is given. See :class:`llmguard.runtime.lifespan.Lifespan`.
    """

    def __init__(self, app: ASGI, guard: Guard | None = None) -> None:
        super().__init__(app, get_guard if guard is None else lambda: guard)
