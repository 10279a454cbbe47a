"""Where a request goes: to a provider, to our own gateway, or to somebody who is no business of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmguard.config import Provider

Address = tuple[str, str, int]
"""Scheme, host and port."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Place:
    """A provider at an origin. ``base`` is the path of its base URL: empty, or with a slash before and none after."""

    provider: str
    family: str
    base: str


GATEWAY = Place("", "", "")
"""Our own proxy: it does everything itself, and only has to hear who calls."""


class Places:
    """Finds the place of a URL. ``providers`` are all that may be called, ``gateway`` is the proxy's origin.

    Of several providers at one origin the one with the longest base path that fits is the most likely.
    """

    def __init__(self, providers: Mapping[str, Provider], gateway: str | None = None) -> None:
        self._places: dict[Address, list[Place]] = {}
        self._suffixes: list[tuple[str, Place]] = []
        for name, provider in providers.items():
            if provider.address is not None:
                self._add(name, provider.dialect, provider.address)
        if gateway is not None:
            self._places[_address(gateway)[0]] = [GATEWAY]

    def _add(self, name: str, family: str, url: str) -> None:
        address, path = _address(url)
        place = Place(name, family, path)
        if address[1].startswith("*"):
            self._suffixes.append((address[1][1:], place))
            return
        places = self._places.setdefault(address, [])
        places.append(place)
        places.sort(key=lambda place: -len(place.base))

    @property
    def words(self) -> tuple[str, ...]:
        """Every place, in words: `https://api.openai.com (openai)`."""
        exact = [
            f"{scheme}://{host}:{port} ({place.provider or 'our gateway: signed only'})"
            for (scheme, host, port), places in self._places.items()
            for place in places
        ]
        return (*exact, *(f"https://*{suffix} ({place.provider})" for suffix, place in self._suffixes))

    def find(self, url: Any) -> Sequence[Place]:
        """The places that an httpx URL may belong to, most likely first; none where it is no business of ours."""
        host = url.host.removesuffix(".")  # with the root's dot it is the same host
        found = self._places.get((url.scheme, host, url.port or _PORTS.get(url.scheme, 0)))
        if found is not None:
            return [place for place in found if _is_below(url.path, place.base)] or found
        if self._suffixes and url.scheme == "https":
            return [place for suffix, place in self._suffixes if host.endswith(suffix)]
        return ()

    def host_among_many(self, url: Any) -> str:
        """The host of a URL whose provider has one for every customer, else empty."""
        host = str(url.host).removesuffix(".")
        return host if any(host.endswith(suffix) for suffix, _ in self._suffixes) else ""


def _is_below(path: str, base: str) -> bool:
    return path.startswith(base) and path[len(base) :][:1] in ("", "/")


def _address(url: str) -> tuple[Address, str]:
    parts = urlsplit(url)
    return (parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)), parts.path.rstrip("/")
