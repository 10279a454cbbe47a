"""google-genai's asynchronous calls: they leave by aiohttp where it is installed, so they are led back to httpx."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

HOME: Final = "google.genai._api_client"
_PREPARED: Final = "_async_client_session_request_args"

Active = Callable[[], bool]


def installed() -> bool:
    """Whether there is a google-genai here that may use aiohttp."""
    try:
        return find_spec("google.genai") is not None and find_spec("aiohttp") is not None
    except ModuleNotFoundError:
        return False


def lead_back(active: Active) -> None:
    """Wrap `BaseApiClient._use_aiohttp`, now or when its module is imported: importing it takes a second."""
    module = sys.modules.get(HOME)
    if module is not None:
        _wrap(module, active)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch(active))


def _wrap(module: ModuleType, active: Active) -> None:
    base: Any = getattr(module, "BaseApiClient", None)
    plain = getattr(base, "_use_aiohttp", None)
    if plain is None or hasattr(plain, "__wrapped__"):
        return

    @wraps(plain)
    def use_aiohttp(self: Any) -> bool:
        # A client that is being made gets ready for either way, so that it still works when it is led back no longer.
        ready = hasattr(self, _PREPARED) and getattr(self, "_async_httpx_client", None) is not None
        return False if active() and ready else bool(plain(self))

    base._use_aiohttp = use_aiohttp


class _Watch(MetaPathFinder):
    """Waits for the one module and steps aside when it comes."""

    def __init__(self, active: Active) -> None:
        self._active = active

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that others find, with a loader that wraps the module once it has run."""
        if name != HOME:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Wrapping(spec.loader, self._active)
        return spec


class _Wrapping(Loader):
    def __init__(self, loader: Loader, active: Active) -> None:
        self._loader = loader
        self._active = active

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the module's own loader does; then wrap."""
        self._loader.exec_module(module)
        _wrap(module, self._active)
