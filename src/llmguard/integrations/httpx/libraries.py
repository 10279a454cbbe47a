"""httpx2 and httpx: two libraries with one interface. Only this module knows which of them is installed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Final, Literal

Name = Literal["httpx2", "httpx"]
NAMES: Final[tuple[Name, ...]] = ("httpx2", "httpx")

_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "TooManyRedirects", "UnsupportedProtocol")


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """One of the two. ``unsent`` are the errors after which it is certain that the provider got nothing to bill: no
    connection came about, or all it said was to go elsewhere."""

    name: Name
    module: Any
    unsent: tuple[type[Exception], ...]


@cache
def library(name: Name) -> Library:
    """The library of this name. Raises ModuleNotFoundError where it is not installed, ValueError for another name."""
    if name not in NAMES:
        raise ValueError(f"module={name!r}: write one of {', '.join(NAMES)}")
    module = importlib.import_module(name)
    return Library(name, module, tuple(getattr(module, error) for error in _UNSENT))


def installed() -> list[Library]:
    """Those that can be imported here."""
    return [library(name) for name in NAMES if find_spec(name) is not None]
