"""Whom to believe: networks, and the address of a client after trust.

What is remembered of an address is remembered with the networks it was asked for, so that other networks start anew.
"""

import ipaddress

from pbal.model.networks import NetworkTable
from pbal.schema.types import Network

MOST_HOPS = 32
"""Addresses of X-Forwarded-For that are looked at. A longer row of trusted proxies is a claim."""


class Networks:
    """Whether an address, as text, lies in one of some networks."""

    __slots__ = ("_table", "networks")

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self.networks = networks
        self._table = NetworkTable(networks)

    def __contains__(self, address: bytes) -> bool:
        return self._table.first(address) >= 0


class Trust:
    """Which peers' forwarding fields a service believes. Source: Perlbal manual, always_trusted, trusted_upstream_proxies."""

    __slots__ = ("always", "networks")

    def __init__(self, always: bool, networks: tuple[Network, ...]) -> None:
        self.always = always
        self.networks = Networks(networks)

    def believes(self, peer: bytes) -> bool:
        """Whether what `peer` says of others is true."""
        return self.always or (bool(self.networks.networks) and peer in self.networks)

    def client_address(self, peer: bytes, forwarded_for: bytes) -> bytes:
        """The first address, from the peer on, that is not a trusted proxy's; the last one where all are.

        `forwarded_for`: the value of X-Forwarded-For. What is no address in it ends the row.
        """
        address = peer
        for said in reversed(forwarded_for.split(b",")[-MOST_HOPS:]):
            if not self.believes(address):
                break
            further = _address(said.strip(b" \t"))
            if not further:
                break
            address = further
        return address


def _address(said: bytes) -> bytes:
    """An address without port and brackets, b"" for what is none. A zone means something to its own host only, and may be any text."""
    if said.startswith(b"["):
        said = said[1:].partition(b"]")[0]
    elif said.count(b":") == 1:
        said = said.partition(b":")[0]
    try:
        parsed = ipaddress.ip_address(said.decode("ascii"))
    except ValueError:
        return b""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return b""
        if parsed.ipv4_mapped is not None:  # RFC 4291 section 2.5.5.2: as peers' addresses are read
            return str(parsed.ipv4_mapped).encode()
    return str(parsed).encode()
