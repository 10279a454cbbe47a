"""The setting `LLMGUARD`: read, checked, and kept until a test overrides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

NAME: Final = "LLMGUARD"
ALIAS: Final = "alias:"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the project says.

    ``config`` is the guard's configuration: a path, a mapping, or None for the usual places. ``ledger`` takes the place
    of the one in there: a URL, or `alias:<name>` for one of `DATABASES`. ``attribution`` and ``on_refusal`` are dotted
    names of functions. ``instrument`` guards the SDK clients of every process of the project.
    """

    config: str | Path | Mapping[str, Any] | None = None
    ledger: str | None = None
    attribution: str | None = None
    instrument: bool = True
    on_refusal: str | None = None

    @property
    def alias(self) -> str | None:
        """The entry of `DATABASES` that the ledger is in, if any."""
        named = self.ledger is not None and self.ledger.startswith(ALIAS)
        return self.ledger.removeprefix(ALIAS) if self.ledger is not None and named else None


_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "CONFIG": ((str, Path, Mapping), "the path of llmguard.yaml, or a mapping"),
    "LEDGER": ((str,), "'alias:default', or a URL such as 'postgresql://localhost/llmguard'"),
    "ATTRIBUTION": ((str,), "the dotted name of a function that takes a request and returns a dict"),
    "INSTRUMENT": ((bool,), "True or False"),
    "ON_REFUSAL": ((str,), "the dotted name of a function that takes a request and a refusal"),
}

_read: list[tuple[object, Settings]] = []
"""The last value that was understood, and what it says."""


def read_settings() -> Settings:
    """The project's settings. Raises ImproperlyConfigured for a key that does not exist or cannot be so."""
    written = getattr(settings, NAME, {})
    if _read and _read[0][0] is written:
        return _read[0][1]
    understood = _understood(written)
    _read[:] = [(written, understood)]
    return understood


def _understood(written: object) -> Settings:
    if not isinstance(written, Mapping):
        raise ImproperlyConfigured(f"{NAME} is {written!r}; write {NAME} = {{'CONFIG': BASE_DIR / 'llmguard.yaml'}}.")
    return Settings(**{_existing(key).lower(): _checked(key, value) for key, value in written.items()})


def _existing(key: object) -> str:
    if key in _TYPES:
        return str(key)
    close = get_close_matches(str(key).upper(), _TYPES, n=1)
    hint = f"write {close[0]!r}" if close else f"the keys are {', '.join(_TYPES)}"
    raise ImproperlyConfigured(f"{NAME} has no key {key!r}; {hint}.")


def _checked(key: str, value: object) -> Any:
    types, expected = _TYPES[key]
    if not isinstance(value, types) and not (value is None and key != "INSTRUMENT"):
        raise ImproperlyConfigured(f"{NAME}[{key!r}] is {value!r}; it must be {expected}.")
    return value


def function(key: str, path: str | None) -> Callable[..., Any] | None:
    """The function that a setting names, None where it names none. Raises ImproperlyConfigured."""
    if path is None:
        return None
    try:
        found: Any = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{NAME}[{key!r}] names {path!r}, which cannot be imported: {error}.") from error
    if not callable(found):
        raise ImproperlyConfigured(f"{NAME}[{key!r}] names {path!r}, which is no function.")
    return cast("Callable[..., Any]", found)
