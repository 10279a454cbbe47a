"""Guards the SDK clients of a process that were made without thinking of it: earlier and later, anybody's.

The public method `send` of httpx's and httpx2's clients is wrapped; every SDK goes through it, whatever transport it
has. The wrappers stay where others have wrapped them again, and do nothing there after :func:`uninstrument`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any, Final

from llmguard.guard import Guard, get_guard
from llmguard.integrations.httpx import genai
from llmguard.integrations.httpx.clients import asend, send
from llmguard.integrations.httpx.door import Door, Words, check_guard, door_of
from llmguard.integrations.httpx.libraries import Library, installed
from llmguard.runtime import threads

_USER: Final = "instrument"
_NOTHING: Final[Words] = {}
_OTHER_WAYS: Final = {
    "botocore": "Amazon Bedrock by boto3 does not use httpx: let such calls go to the gateway",
    "vertexai": "google-cloud-aiplatform speaks gRPC: use google-genai, or let such calls go to the gateway",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`instrument` guards; ``uncovered`` grows when calls that look like LLM calls are seen to go elsewhere.

    Both are texts for people.
    """

    _covered: tuple[str, ...]
    _door: Door

    @property
    def covered(self) -> tuple[str, ...]:
        """The clients whose calls are guarded, and the places where they are."""
        return (*self._covered, *self._door.places)

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Installed packages that call providers by other ways, and where unguarded calls have gone."""
        others = [words for package, words in _OTHER_WAYS.items() if find_spec(package) is not None]
        return (*others, *(f"{origin}: add it to providers in llmguard.yaml" for origin in self._door.elsewhere))


_guard: list[Guard | None] = []
"""The guard in force: nothing while not instrumented, None for the default one."""
_plain: dict[type[Any], tuple[Any, Any]] = {}
"""Classes, their own methods and our wrappers of them."""


def instrument(guard: Guard | None = None) -> Report:
    """Guard the calls that this process makes to providers with httpx and httpx2, hence with all official SDKs.

    Covers clients that are there already and those made later; a client of :func:`llmguard.http_client` is guarded only
    once. Calling it again changes nothing but the ``guard`` (the default one unless given). Calls are charged to whom
    :func:`llmguard.context` says, also in threads that are started within it.
    Raises :class:`llmguard.errors.ConfigError`.
    """
    check_guard(guard)
    door = door_of(guard or get_guard())
    guard_clients(guard)
    clients = [f"{library.name}: Client and AsyncClient" for library in installed()]
    if genai.installed():
        clients.append("google-genai: asynchronous calls, led from aiohttp to httpx")
    return Report(tuple(clients), door)


def guard_clients(guard: Guard | None = None) -> None:
    """The same without a report. The default guard is not asked for before the first call, so its configuration need
    not be there yet."""
    first = not _guard
    _guard[:] = [guard]
    if first:
        for library in installed():
            _wrap(library.module.Client, _blocking(library, library.module.Client.send))
            _wrap(library.module.AsyncClient, _awaited(library, library.module.AsyncClient.send))
        genai.lead_back(is_active)
        threads.install(_USER)


def uninstrument() -> None:
    """Guard no longer what :func:`instrument` has guarded. Calls that are running are still put on record."""
    if not _guard:
        return
    _guard.clear()
    for client, (plain, wrapper) in _plain.items():
        if client.send is wrapper:
            client.send = plain
    _plain.clear()
    threads.remove(_USER)


def is_active() -> bool:
    """Whether :func:`instrument` is in force."""
    return bool(_guard)


def _wrap(client: Any, wrapper: Any) -> None:
    _plain[client] = (client.send, wrapper)
    client.send = wrapper


def _blocking(library: Library, plain: Callable[..., Any]) -> Any:
    @wraps(plain)
    def guarded(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        if not _guard:
            return plain(self, request, stream=stream, **options)
        door = door_of(_guard[0] or get_guard())
        return send(library, door, partial(plain, self), request, _NOTHING, stream, options)

    return guarded


def _awaited(library: Library, plain: Callable[..., Any]) -> Any:
    @wraps(plain)
    async def guarded(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        if not _guard:
            return await plain(self, request, stream=stream, **options)
        door = door_of(_guard[0] or get_guard())
        return await asend(library, door, partial(plain, self), request, _NOTHING, stream, options)

    return guarded
