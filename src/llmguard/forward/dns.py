"""Name resolution with a policy: only public addresses, unless an origin is marked internal.

The socket address that was checked is the one connected to, so a name that changes its answer between check and use
(DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

SocketAddress = tuple[Any, ...]
Endpoint = tuple[socket.AddressFamily, SocketAddress]

# Azure's host agent has a public address, and is as dangerous to reach as the link-local metadata services.
_PUBLIC_METADATA = frozenset({IPv4Address("168.63.129.16")})
# RFC 6052 and RFC 8215: an IPv4 address in the last 32 bits, reached through a translator.
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# RFC 4291 2.5.5.1, deprecated, yet some systems still route it as IPv4.
_COMPATIBLE = IPv6Network("::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is a host on the public internet.

    False for private, loopback, link-local, CGNAT, multicast, reserved and cloud metadata addresses, also where one is
    wrapped in an IPv6 address (mapped, compatible, 6to4, Teredo, NAT64).
    """
    if isinstance(address, IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and address not in _PUBLIC_METADATA


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _COMPATIBLE or any(address in network for network in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class AddressRefused(OSError):
    """A name leads only to addresses that the policy refuses."""


async def resolve(host: str, port: int, *, internal: bool) -> list[Endpoint]:
    """The addresses of a host, in the resolver's order of preference, without those the policy refuses.

    Raises AddressRefused when none is left, socket.gaierror when the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    endpoints: list[Endpoint] = []
    for family, _, _, _, address in answers:
        if internal or is_public(ip_address(address[0])):
            endpoints.append((family, address))
    if not endpoints:
        raise AddressRefused(f"{host} has no public address; mark the provider `internal: true` if that is meant")
    return endpoints
