"""Which header fields travel on (RFC 9110 section 7.6.1).

A field is known by its name in lower case. CGI and what descends from it (WSGI, Rack, PHP) hands an application names with `_`
for `-`, so `X_Forwarded-For` arrives there as X-Forwarded-For. A name with `_` is therefore also read with `-`: what may not
travel on under the one spelling does not under the other. Reader and head say when a name has a `_`; hardly any has.
"""

from typing import Final

from pbal.http1.events import Head, ResponseHead, canonical
from pbal.http1.lines import HOP_BY_HOP

KNOWN_FORWARDING: Final = frozenset(
    {
        b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-prefix",
        b"x-forwarded-ssl", b"x-forwarded-scheme", b"x-forwarded-server", b"x-real-ip", b"x-client-ip", b"true-client-ip",
        b"forwarded", b"x-host", b"client-ip", b"x-cluster-client-ip", b"x-forwarded", b"forwarded-for", b"x-forwarded-protocol",
        b"x-ssl-client-verify", b"x-ssl-client-subject", b"x-ssl-client-issuer", b"x-ssl-client-serial",
        b"client-cert", b"client-cert-chain",
    }
)  # fmt: skip
"""What applications believe of a client's address, scheme and host: only a trusted peer may say it. Rails and PHP frameworks look at
Client-IP and the like, gunicorn at X-Forwarded-Protocol.
"""

END_TO_END: Final = KNOWN_FORWARDING | {
    b"host", b"content-length", b"content-type", b"content-encoding", b"authorization", b"cookie", b"set-cookie", b"via",
    b"date", b"cache-control", b"expect", b"max-forwards", b"location", b"origin",
}  # fmt: skip
"""What a Connection field cannot strip, nor any X-Forwarded-*: naming them there is an attack on whoever relies on them."""

_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})

NOT_IN_TRAILERS: Final = (
    HOP_BY_HOP
    | END_TO_END
    | {
        b"content-range", b"www-authenticate", b"authentication-info", b"proxy-authentication-info", b"cookie2", b"set-cookie2",
        b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"pragma", b"age", b"expires",
        b"retry-after", b"vary", b"warning", b"accept-ranges", b"content-location", b"refresh", b"proxy", b"x-request-id", b"traceparent",
        b"tracestate", b"x-proxy-capabilities", b"clear-site-data", b"strict-transport-security", b"content-security-policy",
    }
)  # fmt: skip
"""What does not travel on in a trailer section: it frames or routes a message, changes a request, says who somebody is, or tells how the
answer is to be kept and shown (RFC 9110 section 6.5.1). Who reads trailers as headers, as some do, is then told nothing by them.
"""
_NOTHING: Final[frozenset[bytes]] = frozenset()
_COMMON_OPTIONS: Final = frozenset({b"keep-alive", b"close", b"upgrade"})
_unions: dict[frozenset[bytes], frozenset[bytes]] = {_NOTHING: HOP_BY_HOP}


def upgrade_offer(head: ResponseHead) -> bytes:
    """The protocols a 426 asks for, to be sent on with `Connection: Upgrade`; b"" for other responses (RFC 9110 section 15.5.22)."""
    return head.fields.get(b"upgrade", b"") if head.status == 426 else b""


def forwardable_block(head: Head, also_drop: frozenset[bytes] = _NOTHING) -> bytes:
    """The header lines to forward: without hop-by-hop fields, those Connection names, and `also_drop` (canonical names).

    A name with `_` that reads as one of these, or as one that frames or routes a message, is dropped with them.
    """
    known = head.forwarded
    if known is not None and known[0] is also_drop:
        return known[1]
    block = _block(head, also_drop)
    head.forwarded = (also_drop, block)
    return block


def _block(head: Head, also_drop: frozenset[bytes]) -> bytes:
    ours = head.ours
    dropped = _unions.get(also_drop) if not ours else (HOP_BY_HOP - ours) | also_drop
    if dropped is None:
        dropped = HOP_BY_HOP | also_drop
        if len(_unions) < 64:  # callers use a few constant sets
            _unions[also_drop] = dropped
    fields = head.fields
    if head.underscores:
        dropped = dropped | _spelt_otherwise(fields, dropped)
    lines = head.lines
    if (not head.of_hop or lines is None) and dropped.isdisjoint(fields):
        return head.block
    named = fields.get(b"connection")
    if named is not None and named != b"keep-alive":
        dropped = dropped | stripped(head)
    if lines is not None:
        kept = [line.octets for line in lines if line.name.key not in dropped]
        kept.append(b"")
        return b"\r\n".join(kept)
    return b"".join([b"%b: %b\r\n" % field for field in head.headers if field[0].lower() not in dropped])


def stripped(head: Head) -> frozenset[bytes]:
    """The names that a Connection field says are of this hop alone, without those that it cannot take away."""
    named = head.fields.get(b"connection")
    if named is None:
        return _NOTHING
    options = frozenset([option.strip(b" \t") for option in named.lower().split(b",")])
    if options <= _COMMON_OPTIONS:
        return _NOTHING
    return frozenset([name for name in options - END_TO_END if not name.startswith(b"x-forwarded-") and canonical(name) not in head.ours])


def trailer_block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """The lines of a trailer section to forward: without NOT_IN_TRAILERS, also where `_` stands for `-`."""
    return b"".join([b"%b: %b\r\n" % field for field in fields if _in_trailers(field[0])])


def _in_trailers(name: bytes) -> bool:
    known = canonical(name)
    return known not in NOT_IN_TRAILERS and not known.startswith((b"x-forwarded-", b"x-ssl-", b"access-control-"))


def announced(said: bytes, without: frozenset[bytes] = _NOTHING) -> bytes:
    """What the Trailer field of a message in chunks says to the other side: the names that may come; b"" if there are none.

    `without`: canonical names that may not, beside those that never do.

    Source: RFC 9110 section 6.6.2.
    """
    names = [name for each in said.split(b",") if (name := each.strip(b" \t")) and _in_trailers(name) and canonical(name) not in without]
    return b", ".join(names)


def _spelt_otherwise(fields: dict[bytes, bytes], dropped: frozenset[bytes]) -> frozenset[bytes]:
    """The names with `_` that read as a name to be dropped, or as one that frames or routes."""
    return frozenset(name for name in fields if b"_" in name and ((other := canonical(name)) in dropped or other in _FRAMING))
