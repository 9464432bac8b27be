"""What kind of address an IP address is, after IANA's registries of special-purpose addresses.

Who may be sent to or connected to is decided elsewhere (`destinations.addresses`, `dialing`).
"""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Final

Address = IPv4Address | IPv6Address

# IANA's special-purpose registries of IPv4 and IPv6, the first match counting. 192.88.99.0/24 and
# 2002::/16 (6to4) and 2001::/32 (Teredo) lead to relays that forward to an address inside.
_SPECIAL: Final[tuple[tuple[IPv4Network | IPv6Network, str], ...]] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/32", "the unspecified address"),
        ("0.0.0.0/8", "an address of this network"),
        ("10.0.0.0/8", "a private address"),
        ("100.100.100.200/32", "the cloud's metadata address"),
        ("100.64.0.0/10", "an address of carrier-grade NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.169.254/32", "the cloud's metadata address"),
        ("169.254.0.0/16", "a link-local address"),
        ("168.63.129.16/32", "the cloud's metadata address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.192/32", "the cloud's metadata address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address of documentation"),
        ("192.88.99.0/24", "an address of a 6to4 relay"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address of benchmarks"),
        ("198.51.100.0/24", "an address of documentation"),
        ("203.0.113.0/24", "an address of documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "the unspecified address"),
        ("::1/128", "a loopback address"),
        ("::/96", "an IPv4-compatible address"),
        ("64:ff9b:1::/48", "an address of a local NAT64"),
        ("100::/64", "a discarded address"),
        ("2001::/32", "an address of Teredo"),
        ("2001:2::/48", "an address of benchmarks"),
        ("2001::/23", "a reserved address"),
        ("2001:db8::/32", "an address of documentation"),
        ("2002::/16", "an address of 6to4"),
        ("3fff::/20", "an address of documentation"),
        ("fd00:ec2::254/128", "the cloud's metadata address"),
        ("fd20:ce::254/128", "the cloud's metadata address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
    )
)
_GLOBAL_UNICAST_6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = IPv6Network("::/96")
# Where an IPv4 address may stand in one of a local NAT64, by the length of its prefix: 48, 56, 64
# and 96 bits (RFC 6052, section 2.2).
_LOCAL_PLACES: Final = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))


def lies_in(address: Address, network: IPv4Network | IPv6Network) -> bool:
    """Whether an address is one of a network, which may be of the other version."""
    return address.version == network.version and address in network


def meanings(address: Address) -> tuple[Address, ...]:
    """Where packets to an address may end: most often there alone.

    A mapped address and one of NAT64 are the IPv4 address in them. Of other disguises (6to4,
    Teredo, a local NAT64, IPv4-compatible) both count, the address first.
    """
    if not isinstance(address, IPv6Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (_low_bits(address),)
    disguised: tuple[IPv4Address, ...] = ()
    if address.sixtofour is not None:
        disguised = (address.sixtofour,)
    elif address.teredo is not None:
        disguised = address.teredo
    elif address in _LOCAL_NAT64:
        packed = address.packed
        disguised = tuple(
            IPv4Address(bytes(packed[place] for place in places)) for places in _LOCAL_PLACES
        )
    elif address in _COMPATIBLE:
        disguised = (_low_bits(address),)
    return (address, *disguised)


def _low_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)


def special_kinds(address: Address) -> list[str]:
    """All that an address may be, in words (`a loopback address`); none if anyone may be reached
    at it."""
    kinds = [_special_kind(meant) for meant in meanings(address)]
    return [what for what in kinds if what is not None]


def _special_kind(address: Address) -> str | None:
    for network, what in _SPECIAL:
        if lies_in(address, network):
            return what
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST_6:
        return "a reserved address"
    return None
