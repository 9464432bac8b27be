"""The address guard: what it refuses, what it lets pass, and what an operator may exempt."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from eventing.destinations.addresses import AddressGuard

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "fc00::1": "private",
    "fd12:3456::1": "private",
    "fec0::1": "private",
    "169.254.1.1": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "169.254.169.254": "metadata",
    "fd00:ec2::254": "metadata",
    # Those of Alibaba, Oracle, Azure (a public one) and Google.
    "100.100.100.200": "metadata",
    "192.0.0.192": "metadata",
    "168.63.129.16": "metadata",
    "fd20:ce::254": "metadata",
    "100.64.0.1": "carrier-grade NAT",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "this network",
    "::": "unspecified",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "broadcast",
    "240.0.0.1": "reserved",
    "192.0.0.8": "reserved",
    "192.0.2.1": "documentation",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "2001:db8::1": "documentation",
    "3fff::1": "documentation",
    "198.18.0.1": "benchmarks",
    "2001:2::1": "benchmarks",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a9fe:a9fe": "metadata",
    "::127.0.0.1": "IPv4-compatible",
    "2002:7f00:1::": "6to4",
    "192.88.99.1": "6to4",
    "2001:0:7f00:1::": "Teredo",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b:1::7f00:1": "NAT64",
    "100::1": "discarded",
    "4000::1": "reserved",
}
ALLOWED = [
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize(("address", "kind"), REFUSED.items())
def test_an_address_inside_is_refused_with_its_kind_and_the_way_out(
    address: str, kind: str
) -> None:
    refusal = AddressGuard().refusal(address)
    assert refusal is not None
    assert kind in refusal
    assert "WEBHOOK_ALLOWED_NETWORKS" in refusal


@pytest.mark.parametrize("address", ALLOWED)
def test_an_address_of_the_public_internet_passes(address: str) -> None:
    assert AddressGuard().refusal(address) is None


@given(some.ip_addresses(v=4))
def test_nothing_passes_that_the_registry_calls_private(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved:
        for text in (str(address), f"::ffff:{address}"):
            assert AddressGuard().refusal(text) is not None


@given(some.ip_addresses(v=6))
def test_no_ipv6_address_passes_that_is_not_global(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is None and not address.is_global:
        assert AddressGuard().refusal(str(address)) is not None


def test_a_named_network_is_exempt_and_its_neighbours_are_not() -> None:
    guard = AddressGuard(["10.1.0.0/16", "fd00:1::/32"])
    assert guard.refusal("10.1.2.3") is None
    assert guard.refusal("::ffff:10.1.2.3") is None
    assert guard.refusal("fd00:1::5") is None
    assert guard.refusal("10.2.0.1") is not None
    assert guard.refusal("fd00:2::5") is not None


def test_what_is_no_address_is_refused() -> None:
    assert AddressGuard().refusal("localhost") is not None
