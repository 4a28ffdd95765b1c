"""What is sent to a node: the request head, with forwarding fields, header rules and Via (RFC 9110 section 7.6).

Whatever pbal owns, or an operator's rule names, is compared with `_` read as `-`: CGI and its kin cannot tell them apart,
and a client's `X-Forwarded_For` must not reach an application as X-Forwarded-For.
"""

from typing import Final

from pbal.http1.events import CHUNKED, RequestHead, canonical
from pbal.http1.headers import KNOWN_FORWARDING, announced, forwardable_block
from pbal.http1.octets import tokens
from pbal.model.exchange import Exchange
from pbal.model.secured import CLIENT_FIELDS
from pbal.model.service import Service

_PROXY: Final = b"proxy"
"""CGI hands it to an application as HTTP_PROXY, and many a library then sends its own requests there ("httpoxy"). No standard has
this field, so it goes no further, whoever sends it."""
_FORWARDED_FOR: Final = frozenset({b"x-forwarded-for"})
_TRUSTED: Final = _FORWARDED_FOR | {_PROXY}
_OF_CLIENT: Final = frozenset(name.lower() for name in CLIENT_FIELDS)
_CAPABILITIES: Final = b"x-proxy-capabilities"
"""What a node may order (roles/proxy/reproxy). A client has no say in it: a node that believed it would tell it of files."""
_UNTRUSTED: Final = KNOWN_FORWARDING | {_PROXY, _CAPABILITIES}
_REQUEST_ID: Final = b"x-request-id"
_UNTRUSTED_NUMBERED: Final = _UNTRUSTED | {_REQUEST_ID}
_TRUSTED_NUMBERED: Final = _TRUSTED | {_REQUEST_ID}
"""Where requests have ids: pbal sends the one that it took or made."""
_seeing: dict[frozenset[bytes], frozenset[bytes]] = {}
_TRACE: Final = frozenset({b"traceparent", b"tracestate"})


IN_CHUNKS: Final = -1
"""The size of a body that was collected whole and goes out in chunks: it has trailers."""


def request_octets(  # noqa: C901 - the hot path: a call costs more than a branch
    exchange: Exchange, request: RequestHead, service: Service, node: str, size: int | None, via: bytes
) -> bytes:
    """The head to send. `request` is the exchange's own, or what a node sees in its place. `size`: octets of a body that was collected
    whole, or IN_CHUNKS; `node` is the Host for who sent none.

    Source: RFC 9110 section 7.6, RFC 9112 section 3.2; Perlbal manual, header management.
    """
    peer = exchange.stream.peer
    target, forwarded_for = request.target, peer
    dropped = _UNTRUSTED
    if exchange.believed:
        dropped = _TRUSTED
        before = request.fields.get(b"x-forwarded-for")
        forwarded_for = before + b", " + peer if before else peer
    number = b""
    if exchange.numbered:
        number = exchange.request_id
        dropped = _UNTRUSTED_NUMBERED if dropped is _UNTRUSTED else _TRUSTED_NUMBERED
    if request.ours or request.underscores:
        dropped, forwarded_for = _set_or_misspelt(request, dropped, forwarded_for)
    own: list[tuple[bytes, bytes]] = []
    forwarding = service.forwarding
    if forwarding is not None:
        if forwarding.blind and exchange.believed and b"x-forwarded-for" not in request.ours:
            dropped, forwarded_for = _blind(dropped), b""
        else:
            dropped = forwarding.say(exchange, request, dropped, own)
    tls = exchange.stream.tls
    if service.traces or exchange.home.traces:
        dropped = _trace(exchange, dropped, own)
    if tls is not None or service.values["send_backend_proto"] == "on":
        dropped = _say_scheme(exchange, service, dropped, own, not forwarded_for)
    if (
        not target.startswith(b"/") or request.expect_continue or size is not None or request.framing == CHUNKED or not request.host
    ):  # fmt: skip
        target, dropped = _unusual(request, node, size, dropped, own)
    if request.upgrade:
        own += ((b"Connection", b"Upgrade"), (b"Upgrade", request.upgrade))
    elif not service.values["persist_backend"]:
        own.append((b"Connection", b"close"))
    if service.values["enable_reproxy"]:
        dropped |= {_CAPABILITIES}
        own.append((b"X-Proxy-Capabilities", b"reproxy-file"))
    if b"te" in request.fields and _wants_trailers(request):
        own += ((b"Connection", b"TE"), (b"TE", b"trailers"))
    if request.method == b"OPTIONS" and b"max-forwards" in request.fields:
        dropped |= {b"max-forwards"}
        own.append((b"Max-Forwards", b"%d" % (int(request.fields[b"max-forwards"]) - 1)))
    rules = service.rules.request
    if exchange.rewritten:
        target = exchange.rewritten
    if not own and rules is None and forwarded_for:  # nearly all
        if number:
            forwarded_for = b"%b\r\nX-Request-Id: %b" % (forwarded_for, number)
        return b"%b %b HTTP/1.1\r\n%bX-Forwarded-For: %b\r\nVia: 1.%d %b\r\n\r\n" % (
            request.method, target, forwardable_block(request, dropped), forwarded_for, request.minor, via,
        )  # fmt: skip
    if number:
        own.append((b"X-Request-Id", number))
    if forwarded_for:
        own.append((b"X-Forwarded-For", forwarded_for))
    if rules is not None:
        changes = rules.changes(exchange)
        dropped = changes.union(dropped)
        own = changes.fields(own)
    block = forwardable_block(request, dropped)
    more = b"".join([b"%b: %b\r\n" % field for field in own])
    return b"%b %b HTTP/1.1\r\n%b%bVia: 1.%d %b\r\n\r\n" % (request.method, target, block, more, request.minor, via)


def _wants_trailers(request: RequestHead) -> bool:
    """Whether the client says, as the one at the other end of this hop, that it reads trailers (RFC 9110 section 10.1.4)."""
    fields = request.fields
    return request.minor == 1 and b"trailers" in tokens(fields[b"te"]) and b"te" in tokens(fields.get(b"connection", b""))


def trailer_octets(exchange: Exchange) -> bytes:
    """The lines of the request's trailer section to send: without fields that are not the client's to say in the head either."""
    trailer = exchange.trailer
    if not trailer:
        return b""
    service = exchange.service
    gone = exchange.request.touched
    if service.rules.request is not None:
        changes = service.rules.request.changes(exchange)
        gone = gone.union(changes.removed, [canonical(name) for name, _ in changes.added])
    misspelt = service.values["header_underscores"] != "colliding"
    kept = []
    for line in trailer.splitlines(keepends=True):
        name = line.partition(b":")[0]
        if canonical(name) not in gone and not (misspelt and b"_" in name):
            kept.append(line)
    return b"".join(kept)


def _set_or_misspelt(request: RequestHead, dropped: frozenset[bytes], forwarded_for: bytes) -> tuple[frozenset[bytes], bytes]:
    """Fields to drop, and X-Forwarded-For, where fields were set here or have a `_` in their names.

    What was set here needs nobody's trust. A trusted peer says forwarding fields by their names; one with `_` is what it let pass.
    """
    ours = request.ours
    owned = KNOWN_FORWARDING | (dropped & {_REQUEST_ID})
    misspelt = {name for name in request.fields if b"_" in name and canonical(name) in owned - ours}
    if b"x-forwarded-for" in ours:
        forwarded_for = next(value for name, value in request.headers if canonical(name) == b"x-forwarded-for")
    return (dropped - ours) | _FORWARDED_FOR | (dropped & {_REQUEST_ID}) | misspelt, forwarded_for


def _trace(exchange: Exchange, dropped: frozenset[bytes], own: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Add the traceparent of a trace that begins here; the fields to drop for it. One that came goes on as it came."""
    begun = exchange.traceparent
    if begun == exchange.request.fields.get(b"traceparent"):
        return dropped
    own.append((b"traceparent", begun))
    return dropped | _TRACE


def _blind(dropped: frozenset[bytes]) -> frozenset[bytes]:
    """`dropped` without X-Forwarded-For; the same object each time, for who remembers by it."""
    found = _seeing.get(dropped)
    if found is None:
        found = dropped - _FORWARDED_FOR
        if len(_seeing) < 64:  # callers use a few constant sets
            _seeing[dropped] = found
    return found


def _say_scheme(
    exchange: Exchange, service: Service, dropped: frozenset[bytes], own: list[tuple[bytes, bytes]], blind: bool
) -> frozenset[bytes]:
    """Add the scheme and what TLS knows of the client; the fields to drop for it. A trusted proxy's word on the scheme stands.

    `blind`: it is not for us to say more than it did.
    """
    said = exchange.request.fields.get(b"x-forwarded-proto")
    if not blind and service.values["send_backend_proto"] != "off" and (said is None or b"x-forwarded-proto" in dropped):
        own.append((b"X-Forwarded-Proto", exchange.scheme))
    tls = exchange.stream.tls
    if tls is not None and (fields := tls.client_fields()):
        own += fields
        dropped |= _OF_CLIENT
    return dropped


def _unusual(
    request: RequestHead, node: str, size: int | None, dropped: frozenset[bytes], own: list[tuple[bytes, bytes]]
) -> tuple[bytes, frozenset[bytes]]:
    """Target and fields to drop for what is not a plain origin-form request; fields to add are put into `own`."""
    target = request.target
    if not target.startswith(b"/") and target != b"*":  # absolute-form: RFC 9112 section 3.2.2
        target = request.path + (b"?" + request.query if request.query else b"")
        if request.method == b"OPTIONS" and request.target.count(b"/") == 2 and not request.query:
            target = b"*"  # RFC 9112 section 3.2.4
        dropped |= {b"host"}
        own.append((b"Host", request.host or node.encode()))
    elif b"host" not in request.fields:  # HTTP/1.0 may do without; what goes out is HTTP/1.1
        own.append((b"Host", node.encode()))
    if size is not None:
        dropped |= {b"expect", b"content-length"}
    if size is not None and size >= 0:
        own.append((b"Content-Length", b"%d" % size))
    elif request.framing == CHUNKED:
        own.append((b"Transfer-Encoding", b"chunked"))
        if b"trailer" in request.fields and (names := announced(request.fields[b"trailer"])):
            own.append((b"Trailer", names))
    return target, dropped
