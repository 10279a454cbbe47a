"""The Celery settings that belong to the guard: `llmguard_…`, under whatever namespace the application uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.exceptions import ImproperlyConfigured

_PREFIX: Final = "llmguard_"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the application's settings say.

    ``config`` is the guard's configuration (path or mapping), where `install` was given no guard. ``default`` holds
    options of :func:`llm_task` for tasks without it. ``instrument`` guards the SDK clients of the process that runs
    tasks. ``children_alone`` accepts that with `memory://` each child of a worker spends up to every limit by itself.
    """

    config: str | Path | Mapping[str, Any] | None = None
    default: Mapping[str, Any] | None = None
    instrument: bool = True
    children_alone: bool = False


_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "config": ((str, Path, Mapping), "the path of llmguard.yaml, or a mapping"),
    "default": ((Mapping,), "a mapping of llm_task options"),
    "instrument": ((bool,), "True or False"),
    "children_alone": ((bool,), "True or False"),
}
_NAMES: Final = tuple(field.name for field in fields(Settings))


def read_settings(app: Celery) -> Settings:
    """The guard's settings of a configured application. Raises ImproperlyConfigured for one that does not exist or
    cannot be."""
    found = {name: app.conf[key] for key, name in _written(app)}
    return Settings(**{name: _checked(name, value) for name, value in found.items()})


def _written(app: Celery) -> list[tuple[str, str]]:
    """The settings that somebody wrote: their key, and the option they name."""
    namespace = f"{app.namespace.rstrip('_')}_".lower() if app.namespace else ""
    written = []
    for key in app.conf:
        name = str(key).lower().removeprefix(namespace)
        if name.startswith(_PREFIX):
            written.append((key, _existing(key, name.removeprefix(_PREFIX))))
    return written


def _existing(key: str, name: str) -> str:
    if name in _NAMES:
        return name
    close = get_close_matches(name, _NAMES, n=1)
    hint = f"did you mean {_PREFIX}{close[0]}" if close else f"there are {', '.join(_PREFIX + n for n in _NAMES)}"
    raise ImproperlyConfigured(f"{key} is no setting of llmguard; {hint}?")


def _checked(name: str, value: Any) -> Any:
    types, expected = _TYPES[name]
    if not isinstance(value, types):
        raise ImproperlyConfigured(f"{_PREFIX}{name} is {value!r}; it must be {expected}.")
    return value
