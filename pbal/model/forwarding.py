"""What nodes are told of the client beside X-Forwarded-For, and what is believed of a Forwarded that came.

A service whose tunables ask for none of it has None in place of a `Forwarding`, and its requests pay one test.

    blind_proxy          a trusted peer has said all there is to say: X-Forwarded-For goes on as it came, and nothing is added
    send_backend_port    X-Forwarded-Port
    send_backend_host    X-Forwarded-Host
    forwarded            Forwarded (RFC 7239)

What a trusted peer says stands; what anybody else says of it never goes on (request.py drops it). Forwarded is appended to, as
X-Forwarded-For is. If both came and tell of other addresses, one of them was let through from a client, and only X-Forwarded-For is what
the trust of pbal goes by: Forwarded is then made of that (RFC 7239 section 7.4).
"""

from collections.abc import Mapping
from typing import Any, Final

from pbal.http1.events import RequestHead
from pbal.http1.forwarded import address, element, elements
from pbal.model.exchange import Exchange

NAMES: Final = frozenset({"blind_proxy", "send_backend_port", "send_backend_host", "forwarded"})
"""The tunables."""
_FORWARDED: Final = frozenset({b"forwarded"})


class Forwarding:
    """What a service's tunables say of it."""

    __slots__ = ("blind", "forwarded", "host", "port")

    def __init__(self, blind: bool, port: bool, host: bool, forwarded: bool) -> None:
        self.blind = blind
        self.port = port
        self.host = host
        self.forwarded = forwarded

    def say(self, exchange: Exchange, request: RequestHead, dropped: frozenset[bytes], own: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
        """Put the fields for a node into `own`; the fields to drop for them. `dropped`: those that go already."""
        fields, ours = request.fields, request.ours
        if self.host and request.host and _unsaid(b"x-forwarded-host", fields, ours, dropped):
            own.append((b"X-Forwarded-Host", request.host))
        if self.port and exchange.stream.port and _unsaid(b"x-forwarded-port", fields, ours, dropped):
            own.append((b"X-Forwarded-Port", b"%d" % exchange.stream.port))
        if self.forwarded and b"forwarded" not in ours:
            proto = b"http" if exchange.stream.tls is None else b"https"
            before = _way(fields) if exchange.believed else b""
            here = element(exchange.stream.peer, request.host, proto)
            own.append((b"Forwarded", before + b", " + here if before else here))
            dropped |= _FORWARDED
        return dropped

    def listed(self, fields: Mapping[bytes, bytes]) -> bytes | None:
        """The addresses of a Forwarded as X-Forwarded-For has them, where that is read; `unknown` ends the row for who believes it."""
        said = fields.get(b"forwarded") if self.forwarded else None
        if said is None:
            return None
        found = elements(said)
        if found is None:
            return b"unknown"
        return b", ".join([address(one.get(b"for", b"")) or b"unknown" for one in found])


def _unsaid(name: bytes, fields: Mapping[bytes, bytes], ours: frozenset[bytes], dropped: frozenset[bytes]) -> bool:
    """Whether nobody who is believed has said it."""
    return name not in ours and (name not in fields or name in dropped)


def forwarding_of(values: Mapping[str, Any]) -> Forwarding | None:
    """As the tunables of a service have it; None where they ask for nothing."""
    made = Forwarding(
        bool(values["blind_proxy"]), bool(values["send_backend_port"]), bool(values["send_backend_host"]), bool(values["forwarded"])
    )
    return made if made.blind or made.port or made.host or made.forwarded else None


def _way(fields: Mapping[bytes, bytes]) -> bytes:
    """What a trusted peer said of the way here, as elements of Forwarded."""
    said, listed = fields.get(b"forwarded"), fields.get(b"x-forwarded-for")
    known = elements(said) if said is not None else None
    if listed is None:
        return said if said is not None and known is not None else b""
    row = [one.strip(b" \t") for one in listed.split(b",")]
    if said is not None and known is not None and _agree(known, row):
        return said
    return b", ".join([element(_bare(one), b"", b"") for one in row])


def _agree(known: list[dict[bytes, bytes]], row: list[bytes]) -> bool:
    """Whether both tell of the same way. What is obfuscated or unknown in Forwarded may be any address."""
    if len(known) != len(row):
        return False
    for one, listed in zip(known, row, strict=True):
        told = address(one.get(b"for", b""))
        if told and told != address(_bracketed(_bare(listed))):
            return False
    return True


def _bare(said: bytes) -> bytes:
    """An address of X-Forwarded-For without brackets and port."""
    if said.startswith(b"["):
        return said[1:].partition(b"]")[0]
    return said.partition(b":")[0] if said.count(b":") == 1 else said


def _bracketed(bare: bytes) -> bytes:
    return b"[%b]" % bare if b":" in bare else bare
