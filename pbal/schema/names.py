"""Who connects to a service through whom; and of pools, nodes by name and from files."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from pbal.schema import types
from pbal.schema.tunables import Applies, Tunable

_UNIX = "unix:"
_MAPPED = "::ffff:"


@dataclass(frozen=True, slots=True)
class Peers:
    """Peers that are believed: networks, and who comes by a Unix socket."""

    networks: tuple[types.Network, ...] = ()
    unix: bool = False

    @property
    def anybody(self) -> bool:
        """Whether there is one."""
        return self.unix or bool(self.networks)

    def includes(self, address: str) -> bool:
        """Whether an IP address is in one of the networks. IPv4 on a socket for both is IPv4 (RFC 4291 section 2.5.5.2)."""
        found = ip_address(address.removeprefix(_MAPPED) if "." in address else address)
        return any(found in network for network in self.networks)


def _parse_peers(text: str) -> Peers:
    words = [word for word in text.replace(",", " ").split() if word.lower() != "off"]
    return Peers(types.NETWORKS.parse(" ".join(word for word in words if word.lower() != _UNIX)), _UNIX in map(str.lower, words))


def _render_peers(value: Peers) -> str:
    words = [types.NETWORKS.render(value.networks)] if value.networks else []
    return " ".join([*words, _UNIX] if value.unix else words) or "off"


def _odd_peers(text: str) -> str:
    peers = " ".join(word for word in text.replace(",", " ").split() if word.lower() not in ("off", _UNIX))
    odd = types.NETWORKS.odd(peers)
    if not odd and any(not network.prefixlen for network in types.NETWORKS.parse(peers)):
        odd = "anybody may say who they are"
    return odd


PEERS: types.Type[Peers] = types.Type("peers", _parse_peers, _render_peers, ("off",), odd=_odd_peers)
"""Networks, and `unix:`; or `off`."""

_NONE = frozenset({"none", "undef", "null", "", '""', "''"})


def _parse_nodefile(text: str) -> Path | None:
    return None if text.lower() in _NONE else types.FILE.parse(text)


NODEFILE: types.Type[Path | None] = types.Type(
    "file or none",
    _parse_nodefile,
    lambda value: "none" if value is None else str(value),
    ("none",),
    placed=lambda text, folder: text if text.lower() in _NONE else types.FILE.place(text, folder),
)
"""An existing file, or `none` and what Perlbal takes for it."""

NAMES: tuple[Tunable, ...] = (
    Tunable(
        "nodefile",
        NODEFILE,
        default="none",
        summary="File with the nodes of the pool, one a line. pbal takes what was written to it within three seconds. none: the nodes that"
        " the pool has stay.",
        source="differs: relative to the file that says it; a file with a mistake changes nothing; see NODES in pbal.conf(5)",
    ),
    Tunable(
        "resolve_interval",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="How long pbal uses the addresses of nodes that are known by name before it looks the names up again. If that fails, it"
        " goes on with those it has. 0: it looks up each name once.",
        source="pbal",
    ),
)

ACCEPTING: tuple[Tunable, ...] = (
    Tunable(
        "accept_proxy_protocol",
        PEERS,
        default="off",
        applies=Applies.NEXT_CONNECTION,
        summary="Proxies in front whose connections begin with a PROXY header (version 1 or 2): networks, and `unix:` for who comes by a"
        " Unix socket. The address in it is the client's. A connection of theirs without one is closed; pbal takes no header from others.",
        source="pbal",
    ),
)
"""Of every service that answers HTTP: who connects to it."""
