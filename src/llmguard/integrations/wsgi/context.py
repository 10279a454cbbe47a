"""Attribution of WSGI requests: the SDK calls that an application makes are charged to whom the request is from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmguard.guard import Guard
from llmguard.integrations.requests import CONTEXT_HEADER, Attribution, RequestContext
from llmguard.integrations.wsgi.app import StartResponse
from llmguard.integrations.wsgi.body import Scoped
from llmguard.integrations.wsgi.environ import Environ

_HEADER = "HTTP_" + CONTEXT_HEADER.upper().replace("-", "_")


class ContextMiddleware:
    """Puts the code that answers a request into a :func:`llmguard.context` of its own, chunk by chunk where it streams.

    ``attribution`` is a function of the WSGI environ, called inside whatever authenticates
    (``environ["REMOTE_USER"]``), that says some of `team`, `env`, `feature`, `end_user`; the keyword arguments of these
    names are for what is always the same.
    """

    def __init__(
        self,
        app: Any,
        *,
        guard: Guard | None = None,
        attribution: Attribution | None = None,
        team: str | None = None,
        env: str | None = None,
        feature: str | None = None,
        end_user: str | None = None,
    ) -> None:
        self.app = app
        names = {"team": team, "env": env, "feature": feature, "end_user": end_user}
        self._context = RequestContext(guard, attribution, names)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        scope = self._context.enter(environ, environ.get(_HEADER))
        with scope:
            body: Iterable[bytes] = self.app(environ, start_response)
        return body if _is_made(body, environ) else Scoped(body, scope)


def _is_made(body: object, environ: Environ) -> bool:
    """Whether no code of the application is left to run: a list, or a file that the server sends by itself."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(body, list | tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper))
