"""Where an application stands in its host's: the path below its mount point, and that nothing hides it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from llmguard.errors import ConfigError, Problem

_SAFE = "/!$&'()*+,;=:@-._~"
"""What stands in a path as it is (RFC 3986, section 3.3)."""


def path_below(scope: MutableMapping[str, Any]) -> bytes:
    """The undecoded path of a request below the mount point of whoever is called; all of it where the caller wrote the
    mount point in another way than plainly."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"], safe=_SAFE).encode()
    for root in _roots(scope):
        for prefix in _written(root):
            if raw.startswith(prefix) and raw[len(prefix) : len(prefix) + 1] in (b"/", b""):
                return raw[len(prefix) :] or b"/"
    return raw


def decoded_below(scope: MutableMapping[str, Any]) -> str:
    """The same decoded, as routers see it."""
    path: str = scope["path"]
    for root in _roots(scope):
        if path.startswith(root) and path[len(root) : len(root) + 1] in ("/", ""):
            return path[len(root) :] or "/"
    return path


def _roots(scope: MutableMapping[str, Any]) -> tuple[str, ...]:
    """What may have to be taken off: under mounts `path` and `raw_path` both begin with all of `root_path`. A prefix
    that a proxy in front has taken off (``FastAPI(root_path=…)``) is in `root_path` alone; Starlette notes it as
    `app_root_path`."""
    root: str = scope.get("root_path", "")
    if not root:
        return ()
    outside: str = scope.get("app_root_path", "")
    return (root, root.removeprefix(outside)) if outside else (root,)


@lru_cache(1024)
def _written(root: str) -> tuple[bytes, bytes]:
    """How callers write a prefix: as it is, or with what is unusual percent-encoded."""
    return root.encode("utf-8"), quote(root, safe=_SAFE).encode()


def check_mounts(host: Any, mounted: object) -> None:
    """Raises ConfigError where a Starlette ``host`` has another application at the path of ``mounted``: the second of
    two is never called, which nobody would notice."""
    # Routes of single pages have an `app`, too, but also methods, and may well stand at the path of a mount.
    mounts = [at for at in getattr(host, "routes", ()) if hasattr(at, "app") and not hasattr(at, "methods")]
    paths = [getattr(mount, "path", None) for mount in mounts]
    for path in [mount.path for mount in mounts if _holds(mount.app, mounted)]:
        if paths.count(path) > 1:
            fix = "give each application a path of its own"
            raise ConfigError([Problem("mount", f"{path or '/'} is mounted twice, and only the first is served", fix)])


def check_layers(request: Mapping[str, Any], key: str) -> None:
    """Raises ConfigError where layers of the same guard, noted in ``request`` (a scope or environ) under ``key``, have
    charged a call already that comes to a gateway which they did not find."""
    visit = request.get(key)
    if visit is not None and visit.followed:
        fix = "put the layers around create_app() itself, or exclude its path from their routes="
        raise ConfigError([Problem("create_app", "layers in front of it have charged this call already", fix)])


def _holds(app: Any, mounted: object) -> bool:
    """Whether it is there, perhaps with middleware around it."""
    while app is not None and app is not mounted:
        app = getattr(app, "app", None)
    return app is mounted
