"""Where URLs of nodes may lead: what `SET reproxy_allow` names, and whether an address is one of it.

A node says a URL, and pbal goes there from a place that the node may not reach itself. So what counts is the address in the end, and a name
that was allowed is not enough where it leads to this machine, to its neighbours on the link, or to the address under which clouds tell
their secrets: whoever answers for the name could send pbal there. Such an address has to be named itself.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pbal.schema.kinds import BadValue
from pbal.schema.types import ENDPOINT, Network, Type, plain_network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ANY_PORT = 0
DEFAULT_PORT = 80
"""That of http, and of a node without a port."""

_SEPARATOR = re.compile(r"[,\s]+", re.ASCII)
_FORM = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}|\*))?", re.ASCII)
_DOTTED = re.compile(r"[0-9./]+", re.ASCII)
_METADATA = frozenset(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192"))
"""Where clouds tell a machine its secrets, beside 169.254.169.254 (AWS over IPv6, Alibaba, Oracle)."""
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""RFC 6052: IPv4 in IPv6."""

_EXPECTED = "a destination such as 10.0.0.5:7500, 10.0.0.0/8:80, [fd00::/8]:80, images.example.com:80 or *.example.com:80"


@dataclass(frozen=True, slots=True)
class Destination:
    """One of them: a network, or a host's name."""

    network: Network | None
    host: str
    """In lower case; `*.example.com` is every name below example.com, `*` every name. '' for a network."""
    port: int

    def names(self, host: str) -> bool:
        """Whether it says this name."""
        if self.host.startswith("*"):
            return self.host == "*" or host.endswith(self.host[1:])
        return self.host == host

    def __str__(self) -> str:
        port = "*" if self.port == ANY_PORT else self.port
        if self.network is None:
            return f"{self.host}:{port}"
        text = str(self.network if self.network.prefixlen < self.network.max_prefixlen else self.network.network_address)
        return f"[{text}]:{port}" if self.network.version == 6 else f"{text}:{port}"


def _parse_one(text: str) -> Destination:
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadValue(f"expected {_EXPECTED}, found {text!r}", expected=_EXPECTED)
    port = DEFAULT_PORT if match[3] is None else ANY_PORT if match[3] == "*" else int(match[3])
    if match[3] != "*" and not 1 <= port <= 65535:
        raise BadValue(f"expected a port from 1 to 65535, or *, found {match[3]!r}", expected="a port from 1 to 65535, or *")
    try:
        if match[1] or _DOTTED.fullmatch(match[2]):
            return Destination(plain_network(ipaddress.ip_network(match[1] or match[2], strict=False)), "", port)
        host = match[2].lower().removesuffix(".")
        if host != "*":
            ENDPOINT.parse(host.removeprefix("*."))
    except ValueError:
        raise BadValue(f"expected {_EXPECTED}, found {text!r}", expected=_EXPECTED) from None
    return Destination(None, host, port)


def _parse(text: str) -> tuple[Destination, ...]:
    return tuple(_parse_one(word) for word in _SEPARATOR.split(text) if word)


def _render(value: tuple[Destination, ...]) -> str:
    return " ".join(map(str, value))


def _odd(text: str) -> str:
    """What lets nodes go nearly everywhere."""
    for destination in _parse(text):
        if destination.host == "*" or (destination.network is not None and not destination.network.prefixlen):
            return f"{destination} lets nodes reach every host there is"
    return ""


DESTINATIONS: Type[tuple[Destination, ...]] = Type("destinations", _parse, _render, odd=_odd)


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, or itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_near(address: Address) -> bool:
    """Whether an address is this machine, or one that only this machine should reach: a name must not lead there."""
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address.is_reserved
        or address in _METADATA
    )


def may_be_allowed(destinations: Iterable[Destination], host: str, port: int) -> bool:
    """Whether it is worth looking up the name: a name that cannot be allowed tells nothing to whoever answers for it."""
    return any(each.port in (port, ANY_PORT) and (each.network is not None or each.names(host)) for each in destinations)


def allowed(destinations: Iterable[Destination], host: str, port: int, addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of `addresses`, to which `host` (in lower case) leads, that may be gone to."""
    known = [each for each in destinations if each.port in (port, ANY_PORT)]
    named = any(each.network is None and each.names(host) for each in known)
    networks = [each.network for each in known if each.network is not None]
    found = []
    for text in addresses:
        address = plain(ipaddress.ip_address(text.partition("%")[0]))
        if any(address in network for network in networks) or (named and not is_near(address)):
            found.append(text)
    return tuple(found)
