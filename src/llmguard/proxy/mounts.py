"""Where an application stands in its host's: the path below its mount point, and that nothing hides it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

from llmguard.errors import ConfigError, Problem

_SAFE = "/!$&'()*+,;=:@-._~"
"""What stands in a path as it is (RFC 3986, section 3.3)."""


def path_below(scope: MutableMapping[str, Any]) -> bytes:
    """The undecoded path of a request below the mount point of whoever is called.

    Under mounts `path` and `raw_path` both begin with all of `root_path`. A prefix that a proxy in front has taken off
    (``FastAPI(root_path=…)``) is in `root_path` alone; Starlette notes it as `app_root_path`.
    """
    raw: bytes = scope.get("raw_path") or quote(scope["path"], safe=_SAFE).encode()
    root: str = scope.get("root_path", "")
    if not root:
        return raw
    outside = scope.get("app_root_path", "")
    for prefix in (root, root.removeprefix(outside)):
        below = _after(raw, prefix)
        if below is not None:
            return below
    return raw


def _after(raw: bytes, prefix: str) -> bytes | None:
    """What follows ``prefix``, however the caller has encoded it; None where ``raw`` does not begin with it."""
    for begin in (prefix.encode("utf-8"), quote(prefix, safe=_SAFE).encode()):
        if raw.startswith(begin) and raw[len(begin) : len(begin) + 1] in (b"/", b""):
            return raw[len(begin) :] or b"/"
    return None


def check_mounts(host: Any, mounted: object) -> None:
    """Raises ConfigError where a Starlette ``host`` has another application at the path of ``mounted``: the second of
    two is never called, which nobody would notice."""
    routes = getattr(host, "routes", ())
    paths = [getattr(route, "path", None) for route in routes if hasattr(route, "app")]
    mine = [route.path for route in routes if hasattr(route, "app") and _holds(route.app, mounted)]
    for path in mine:
        if paths.count(path) > 1:
            fix = "give each application a path of its own"
            raise ConfigError([Problem("mount", f"{path or '/'} is mounted twice, and only the first is served", fix)])


def _holds(app: Any, mounted: object) -> bool:
    """Whether it is there, perhaps with middleware around it."""
    while app is not None and app is not mounted:
        app = getattr(app, "app", None)
    return app is mounted
