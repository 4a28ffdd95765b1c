"""Many networks, and which of them an address is in first: one search in a sorted list, however many there are.

Networks lie in each other or apart. So the numbers of all addresses fall into ranges, each of which has one answer: the smallest place
among the networks around it. The ranges are made once, by going through the networks by their beginning with those that are open on a
stack. 10,000 networks make at most 20,001 ranges, in some 30 ms; a search takes a microsecond.

To try each length of prefix by a dict costs as many looks as there are lengths, and to go through the networks costs as many as there are.
"""

import socket
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from pbal.schema.types import Network

_MAPPED: Final = 0xFFFF
"""What IPv4 addresses that are written as IPv6 ones begin with (RFC 4291 section 2.5.5.2). Here, as everywhere, they are IPv4 addresses."""

_MAPPED_OCTETS: Final = bytes(10) + b"\xff\xff"

REMEMBERED: Final = 4096
"""Addresses remembered; a few peers make most requests."""


class NetworkTable:
    """Networks in an order. Replaced whole where they change."""

    __slots__ = ("_known", "_ranges")

    def __init__(self, networks: Iterable[Network]) -> None:
        found: dict[int, list[tuple[int, int, int]]] = {}
        for place, network in enumerate(networks):
            version, first = network.version, int(network.network_address)
            if version == 6 and network.prefixlen >= 96 and first >> 32 == _MAPPED:
                version, first = 4, first & 0xFFFFFFFF
            found.setdefault(version, []).append((first, -(first + (1 << (network.max_prefixlen - network.prefixlen)) - 1), place))
        self._ranges = {version: _flat(sorted(of)) for version, of in found.items()}
        self._known: dict[bytes, int] = {}

    def first(self, address: bytes) -> int:
        """The place of the first network that an address, as text, is in; -1 for one in none, and for what is no address."""
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[address] = self._look(address)
        return found

    def _look(self, address: bytes) -> int:
        try:
            packed = socket.inet_pton(socket.AF_INET6 if b":" in address else socket.AF_INET, address.partition(b"%")[0].decode("ascii"))
        except (OSError, ValueError):
            return -1
        packed = packed.removeprefix(_MAPPED_OCTETS) if len(packed) == 16 else packed
        ranges = self._ranges.get(6 if len(packed) == 16 else 4)
        if ranges is None:
            return -1
        firsts, places = ranges
        return places[bisect_right(firsts, int.from_bytes(packed)) - 1]


def _flat(networks: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
    """The first address of each range, and its answer. A network is its first address, its last one negated, and its place."""
    firsts, places = [0], [-1]
    around: list[tuple[int, int]] = []
    """Those that are open: last address, and the smallest place up to there."""

    def begin(address: int, place: int) -> None:
        if firsts[-1] == address:
            places[-1] = place
        else:
            firsts.append(address)
            places.append(place)

    def leave() -> None:
        last, _ = around.pop()
        begin(last + 1, around[-1][1] if around else -1)

    for first, negated, place in networks:  # sorted: of two that begin alike, the wider one comes first
        while around and around[-1][0] < first:
            leave()
        smallest = min(place, around[-1][1]) if around else place
        around.append((-negated, smallest))
        begin(first, smallest)
    while around:
        leave()
    return firsts, places
