"""Which header fields travel on (RFC 9110 section 7.6.1)."""

from typing import Final

from pbal.http1.events import Head, ResponseHead

HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip

END_TO_END: Final = frozenset(
    {
        b"host", b"content-length", b"content-type", b"content-encoding", b"authorization", b"cookie", b"set-cookie", b"via",
        b"date", b"cache-control", b"expect", b"max-forwards", b"location", b"x-forwarded-for", b"x-forwarded-host",
        b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip", b"forwarded", b"origin",
    }
)  # fmt: skip
"""What a Connection field cannot strip, nor any X-Forwarded-*: naming them there is an attack on whoever relies on them."""

KNOWN_FORWARDING: Final = frozenset(
    {
        b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-ssl",
        b"x-forwarded-scheme", b"x-forwarded-server", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"x-host", b"forwarded",
    }
)  # fmt: skip
"""What proxies say of clients: true only from a proxy that is trusted."""


def canonical(name: bytes) -> bytes:
    """A field name as CGI and its kin see it: in one case, with `_` and `-` the same."""
    return name.lower().replace(b"_", b"-")


def upgrade_offer(head: ResponseHead) -> bytes:
    """The protocols that a 426 names, which pass on (RFC 9110 section 15.5.22); b"" otherwise."""
    return head.fields.get(b"upgrade", b"") if head.status == 426 else b""


_NOTHING: Final[frozenset[bytes]] = frozenset()
_unions: dict[frozenset[bytes], frozenset[bytes]] = {_NOTHING: HOP_BY_HOP}


def forwardable_block(head: Head, also_drop: frozenset[bytes] = _NOTHING) -> bytes:
    """The header lines to forward: without hop-by-hop fields, those Connection names, and `also_drop` (lower-case)."""
    known = head.forwarded
    if known is not None and known[0] is also_drop:
        return known[1]
    block = _block(head, also_drop)
    head.forwarded = (also_drop, block)
    return block


def _block(head: Head, also_drop: frozenset[bytes]) -> bytes:
    dropped = _unions.get(also_drop)
    if dropped is None:
        dropped = HOP_BY_HOP | also_drop
        if len(_unions) < 64:  # callers use a few constant sets
            _unions[also_drop] = dropped
    fields = head.fields
    if head.underscores:
        dropped = dropped | _named_by_connection(head)
        forged = dropped | _FRAMING
        return b"".join([b"%b: %b\r\n" % field for field in head.headers if _passes(field[0], dropped, forged)])
    if dropped.isdisjoint(fields):
        return head.block
    dropped = dropped | _named_by_connection(head)
    return b"".join([b"%b: %b\r\n" % field for field in head.headers if field[0].lower() not in dropped])


def _named_by_connection(head: Head) -> frozenset[bytes]:
    """Fields that Connection makes those of this hop."""
    named = head.fields.get(b"connection")
    if named is None:
        return _NOTHING
    options = frozenset([option.strip(b" \t") for option in named.lower().split(b",")])
    if options <= _COMMON_OPTIONS:
        return _NOTHING
    return frozenset([name for name in options - END_TO_END if not name.startswith(b"x-forwarded-")])


_COMMON_OPTIONS: Final = frozenset({b"keep-alive", b"close", b"upgrade"})
_FRAMING: Final = frozenset({b"host", b"content-length"})
"""Names beside HOP_BY_HOP that no alias with `_` may reach an application under."""


def _passes(name: bytes, dropped: frozenset[bytes], forged: frozenset[bytes]) -> bool:
    return canonical(name) not in forged if b"_" in name else name.lower() not in dropped
