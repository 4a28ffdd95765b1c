"""What a client is sent of a node's response head: what is not of the hop, and what hooks made of it."""

from typing import Final

from pbal.http1.changes import Changes
from pbal.http1.encoder import render_fields
from pbal.http1.events import CHUNKED, ResponseHead, canonical
from pbal.http1.headers import forwardable_block
from pbal.model.bound import HookTable
from pbal.model.exchange import Exchange
from pbal.roles import chain

_HIDDEN: Final = frozenset({b"content-length"})


def forwardable_fields(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    """The fields of a response that hooks may see: without those of the hop and of the framing."""
    lines = forwardable_block(head, _HIDDEN).split(b"\r\n")
    pairs = [line.split(b":", 1) for line in lines if line]
    return [(name, value.strip(b" \t")) for name, value in pairs]


def modified(head: ResponseHead, hooks: HookTable, exchange: Exchange) -> tuple[ResponseHead, bytes, Changes | None] | None:
    """What modify_response_headers makes of a head, as a head of our own; what prepend_body puts before the body; what is not to come as a
    trailer after it.

    None when a plugin failed and the client has its 500. What frames the message the hooks do not see, and cannot change. A field that
    they took away, or gave another value, may not come back behind the body: some read trailers as fields of the head.
    """
    fields = forwardable_fields(head)
    own = ResponseHead.made(head.status, list(fields))
    own.reason = head.reason
    if not chain.run_all(hooks.modify_response_headers, exchange, own):
        return None
    own.fields = {name.lower(): value for name, value in own.headers}
    before = b""
    if hooks.prepend_body and _has_body(head):
        said = chain.prefix(hooks.prepend_body, exchange, own)
        if said is None:
            return None
        before = said
    block = render_fields(own.headers)
    length = head.fields.get(b"content-length")
    if length is not None and head.status != 204:
        block += b"Content-Length: %d\r\n" % (int(length) + len(before)) if before else b"Content-Length: %b\r\n" % length
    own.block = block
    own.framing = head.framing + len(before) if head.framing >= 0 else head.framing
    if head.framing != CHUNKED:
        return own, before, None
    sent = {(bytes(name), bytes(value)) for name, value in own.headers}
    touched = frozenset([canonical(name) for name, _ in sent.symmetric_difference(fields)])
    return own, before, Changes(touched, []) if touched else None


def _has_body(head: ResponseHead) -> bool:
    """Whether octets may go before a node's body. In one with Content-Encoding they would be taken for coded ones."""
    return head.status not in (204, 205, 304) and b"content-encoding" not in head.fields
