"""Many networks, and which of them an address is in first: a few looks into dicts, however many there are.

Networks of one length of prefix are a dict from the bits of their prefix to their places, so a search costs as many looks as there are
lengths. To have fewer, those that are narrow are divided once more, by their first bits: an address is held against the lengths of those
that begin as it does, and against those of the wide ones, of which lists have few.

A network that comes or goes is one entry, while requests go on. A table of ranges, searched by halves, costs as much to search, and has to
be made anew: for 10,000 networks everybody would wait some 50 ms.
"""

import socket
from bisect import insort
from collections.abc import Iterable
from typing import Final

from pbal.schema.types import Network, plain_network

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What IPv4 addresses that are written as IPv6 ones begin with (RFC 4291 section 2.5.5.2). Here, as everywhere, they are IPv4 addresses."""

_WIDE: Final = {4: 16, 6: 96}
"""By version: networks with more bits than that behind their prefix are wide. The others begin with those that are before these bits."""

REMEMBERED: Final = 4096
"""Addresses remembered; a few peers make most requests."""

Prefixes = dict[int, dict[int, int | list[int]]]
"""The places of networks: by the number of bits behind the prefix, and by the prefix. A list, in order, where there are several."""


class NetworkTable:
    """Networks with places, of which the smallest counts."""

    __slots__ = ("_known", "_narrow", "_wide")

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._wide: dict[int, Prefixes] = {4: {}, 6: {}}
        """By version."""
        self._narrow: dict[int, dict[int, Prefixes]] = {4: {}, 6: {}}
        """By version, and by how they begin."""
        self._known: dict[bytes, int] = {}
        for place, network in enumerate(networks):
            self.add(network, place)

    def add(self, network: Network, place: int) -> None:
        """A network comes in at a place. Two may be the same."""
        version, rest, prefix = _divided(network)
        wide = _WIDE[version]
        lengths = self._wide[version] if rest > wide else self._narrow[version].setdefault(prefix >> (wide - rest), {})
        prefixes = lengths.setdefault(rest, {})
        there = prefixes.get(prefix)
        if there is None:
            prefixes[prefix] = place
        elif isinstance(there, int):
            prefixes[prefix] = [place, there] if place < there else [there, place]
        else:
            insort(there, place)
        self._known = {}

    def remove(self, network: Network, place: int) -> None:
        """The network at a place goes. Raises: KeyError or ValueError if it is not there."""
        version, rest, prefix = _divided(network)
        wide = _WIDE[version]
        lengths = self._wide[version] if rest > wide else self._narrow[version][prefix >> (wide - rest)]
        left = list(self.places(network))
        left.remove(place)
        if left:
            lengths[rest][prefix] = left
        else:
            del lengths[rest][prefix]
        if not lengths[rest]:
            del lengths[rest]
        if not lengths and rest <= wide:
            del self._narrow[version][prefix >> (wide - rest)]
        self._known = {}

    def places(self, network: Network) -> tuple[int, ...]:
        """The places of a network, in order."""
        version, rest, prefix = _divided(network)
        wide = _WIDE[version]
        lengths = self._wide[version] if rest > wide else self._narrow[version].get(prefix >> (wide - rest), {})
        found = lengths.get(rest, {}).get(prefix, ())
        return (found,) if isinstance(found, int) else tuple(found)

    def first(self, address: bytes) -> int:
        """The smallest place of a network that an address, as text, is in; -1 for one in none, and for what is no address."""
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known = {}
            found = self._known[address] = self._look(address)
        return found

    def _look(self, address: bytes) -> int:
        try:
            packed = socket.inet_pton(socket.AF_INET6 if b":" in address else socket.AF_INET, address.partition(b"%")[0].decode("ascii"))
        except (OSError, ValueError):
            return -1
        packed = packed.removeprefix(_MAPPED) if len(packed) == 16 else packed
        version, number = 6 if len(packed) == 16 else 4, int.from_bytes(packed)
        found = _smallest(self._wide[version], number, -1)
        beginning = self._narrow[version].get(number >> _WIDE[version])
        return found if beginning is None else _smallest(beginning, number, found)


def _smallest(lengths: Prefixes, number: int, found: int) -> int:
    """The smallest place of the networks that an address is in, or `found` if that is smaller; -1: none."""
    for rest, prefixes in lengths.items():
        places = prefixes.get(number >> rest)
        if places is not None:
            place = places if isinstance(places, int) else places[0]
            if not 0 <= found < place:
                found = place
    return found


def _divided(network: Network) -> tuple[int, int, int]:
    """Version, number of bits behind the prefix, and the prefix. An IPv4 network is one however it is written."""
    network = plain_network(network)
    rest = network.max_prefixlen - network.prefixlen
    return network.version, rest, int(network.network_address) >> rest
