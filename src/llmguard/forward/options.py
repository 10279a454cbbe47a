"""Where an engine connects, how much it may open, and how long it may wait."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@%-]+)*")


@dataclass(frozen=True, slots=True)
class Origin:
    """One provider's address, from configuration only.

    ``host`` is a name or an IP address without brackets, ``base_path`` is empty or starts with a slash and ends without
    one. Private and other non-public addresses are connected to only when ``internal`` is set.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""
    internal: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"scheme {self.scheme!r} is not http or https")
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"host {self.host!r} is not a host name (write international names in punycode)")
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        if not _PATH.fullmatch(self.base_path):
            raise ValueError(f"base path {self.base_path!r} is not a plain path without a slash at its end")

    @classmethod
    def parse(cls, url: str, *, internal: bool = False) -> Self:
        """The origin a base URL names. Raises ValueError for anything but scheme, host, port and path."""
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("a base URL holds scheme, host, port and path, nothing else")
        port = _DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
        return cls(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"), internal)

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What the Host field says: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base_path}"


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How much one origin's pool may hold.

    Calls beyond ``max_connections`` wait in line, those beyond ``max_waiting`` are turned away at once. A connection
    idle for ``keep_alive`` seconds is closed: shorter than the 60 s after which common load balancers close it.
    """

    max_connections: int = 512
    max_waiting: int = 1024
    keep_alive: float = 30.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds per stage of a call.

    ``connect`` covers name resolution and all addresses tried, ``queue`` the wait for a free connection, ``write`` a
    request that makes no progress, ``first_byte`` the wait for the reply's head, ``silence`` the wait between two reads
    of its body, ``total`` everything once the request is on its connection. Those of a running call are counted in
    sweeps, so they fire up to two times ``sweep`` late, and never early.
    """

    connect: float = 5.0
    tls: float = 5.0
    queue: float = 5.0
    write: float = 30.0
    first_byte: float = 600.0
    silence: float = 300.0
    total: float = 3600.0
    sweep: float = 1.0
