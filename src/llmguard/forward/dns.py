"""Name resolution with a policy: only public addresses, unless an origin is marked internal.

The socket address that was checked is the one connected to, so a name that changes its answer between check and use
(DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

SocketAddress = tuple[Any, ...]
Endpoint = tuple[socket.AddressFamily, SocketAddress]

# IANA special-purpose address registries (RFC 6890 and its updates), written out because what `ipaddress` thinks of
# them differs between Python releases. Azure's host agent has a public address, yet is a metadata service.
_NOT_PUBLIC_4 = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
]
_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4: the tunnels lead to any IPv4 address.
_NOT_PUBLIC_6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is a host on the public internet.

    False for private, loopback, link-local, CGNAT, multicast, reserved and cloud metadata addresses, also where one is
    wrapped in an IPv6 address. Two wrappings are looked into (IPv4-mapped, NAT64), all others refused.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


class AddressRefused(OSError):
    """A name leads only to addresses that the policy refuses."""


async def resolve(host: str, port: int, *, internal: bool) -> list[Endpoint]:
    """The addresses of a host, in the resolver's order of preference, without those the policy refuses.

    Raises AddressRefused when none is left, socket.gaierror when the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    return _allowed(host, await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), internal=internal)


def resolve_now(host: str, port: int, *, internal: bool) -> list[Endpoint]:
    """The same for threads."""
    return _allowed(host, socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), internal=internal)


def _allowed(host: str, answers: Sequence[tuple[Any, ...]], *, internal: bool) -> list[Endpoint]:
    endpoints: list[Endpoint] = []
    for family, _, _, _, address in answers:
        if internal or is_public(ip_address(address[0])):
            endpoints.append((family, address))
    if not endpoints:
        raise AddressRefused(f"{host} has no public address; mark the provider `internal: true` if that is meant")
    return endpoints
