"""Which addresses a provider may have, and that only checked ones are connected to."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from llmguard.forward.dns import AddressRefused, is_public, resolve

PUBLIC = [
    "8.8.8.8",
    "104.18.6.192",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "2606:4700::6812:6c0",
    "2a00:1450::1",
]
WRAPPED_PUBLIC = ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
NOT_PUBLIC = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "shared (CGNAT)": ["100.64.0.1", "100.127.255.255"],
    "metadata": [
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
    ],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "multicast and broadcast": ["224.0.0.1", "239.255.255.250", "255.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": [
        "240.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "2001:db8::1",
        "3fff::1",
        "4000::1",
    ],
    "mapped": ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:168.63.129.16"],
    "compatible": ["::127.0.0.1", "::10.0.0.1"],
    "translated": ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1"],
    "tunnelled": ["2002:7f00:1::1", "2002:a9fe:a9fe::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2002:808:808::1"],
}


@pytest.mark.parametrize("address", PUBLIC + WRAPPED_PUBLIC)
def test_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(("kind", "address"), [(kind, a) for kind, every in NOT_PUBLIC.items() for a in every])
def test_not_public(kind: str, address: str) -> None:
    assert not is_public(ip_address(address)), kind


class FakeLoop(asyncio.SelectorEventLoop):
    """A loop whose resolver gives what a test says; nothing else of it is changed."""

    answers: tuple[str, ...] = ()

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def, override]
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [(families[ip_address(a).version], type, 6, "", (a, port)) for a in self.answers]


def resolved(*answers: str, internal: bool = False) -> list[str]:
    loop = FakeLoop()
    loop.answers = answers
    try:
        return [address[0] for _, address in loop.run_until_complete(resolve("x.example", 443, internal=internal))]
    finally:
        loop.close()


def test_order_is_kept_and_private_answers_are_left_out() -> None:
    assert resolved("2606:4700::1", "10.0.0.1", "8.8.8.8", "::1") == ["2606:4700::1", "8.8.8.8"]


def test_only_private_answers() -> None:
    with pytest.raises(AddressRefused, match=r"x\.example has no public address"):
        resolved("10.0.0.1", "169.254.169.254")


def test_internal_takes_all() -> None:
    assert resolved("10.0.0.1", "8.8.8.8", internal=True) == ["10.0.0.1", "8.8.8.8"]


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "017700000001"])
def test_odd_spellings_of_loopback(host: str) -> None:
    with pytest.raises(AddressRefused):
        asyncio.run(resolve(host, 80, internal=False))
