"""What a client is sent of a node's response head: what is not of the hop, and what hooks made of it."""

from typing import Final

from pbal.http1.changes import Changes
from pbal.http1.encoder import render_fields
from pbal.http1.events import CHUNKED, ResponseHead, canonical
from pbal.http1.headers import forwardable_block
from pbal.model.exchange import Exchange
from pbal.model.hooks import Bound
from pbal.roles import chain

_HIDDEN: Final = frozenset({b"content-length"})


def forwardable_fields(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    """The fields of a response that hooks may see: without those of the hop and of the framing."""
    lines = forwardable_block(head, _HIDDEN).split(b"\r\n")
    pairs = [line.split(b":", 1) for line in lines if line]
    return [(name, value.strip(b" \t")) for name, value in pairs]


def modified(head: ResponseHead, hooks: tuple[Bound, ...], exchange: Exchange) -> tuple[ResponseHead, Changes | None] | None:
    """What modify_response_headers makes of a head, as a head of our own, and what is not to come as a trailer after it.

    None when a plugin failed and the client has its 500. What frames the message the hooks do not see, and cannot change. A field that
    they took away, or gave another value, may not come back behind the body: some read trailers as fields of the head.
    """
    fields = forwardable_fields(head)
    own = ResponseHead.made(head.status, list(fields))
    if not chain.run_all(hooks, exchange, own):
        return None
    block = render_fields(own.headers)
    length = head.fields.get(b"content-length")
    if length is not None and head.status != 204:
        block += b"Content-Length: %b\r\n" % length
    own.block, own.reason, own.framing = block, head.reason, head.framing
    own.fields = {name.lower(): value for name, value in own.headers}
    if head.framing != CHUNKED:
        return own, None
    sent = {(bytes(name), bytes(value)) for name, value in own.headers}
    touched = frozenset([canonical(name) for name, _ in sent.symmetric_difference(fields)])
    return own, Changes(touched, []) if touched else None
