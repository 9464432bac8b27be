"""Which addresses a webhook may be sent to.

Whoever writes a trigger chooses a name and its owner chooses where that points, so the decision is
made on the very address of each connection. Only globally reachable unicast addresses pass, unless
the operator has named their network in WEBHOOK_ALLOWED_NETWORKS.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from eventing.networks import lies_in, meanings, special_kinds


class AddressGuard:
    """Decides about addresses; `allowed_networks` (CIDR) are exempt."""

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed = tuple(ip_network(network) for network in allowed_networks)
        # Connections are made over and over to the same few addresses.
        self.refusal = lru_cache(maxsize=4096)(self._refusal)

    def _refusal(self, address: str) -> str | None:
        """Why nothing may be sent to `address` (an IP address as text); None if it may."""
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return "its address is not an IP address"
        meant, *_ = meanings(parsed)
        if any(lies_in(each, network) for each in {parsed, meant} for network in self._allowed):
            return None
        kinds = special_kinds(parsed)
        if not kinds:
            return None
        shown = f"{parsed}" if parsed == meant else f"{parsed} (that is {meant})"
        return (
            f"{shown} is {kinds[0]}; nothing is sent there unless WEBHOOK_ALLOWED_NETWORKS names"
            " its network"
        )
