"""What a client is sent of a node's response head: what is not of the hop, and what hooks made of it."""

from typing import Final

from pbal.http1.encoder import render_fields
from pbal.http1.events import ResponseHead
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


def modified(head: ResponseHead, hooks: tuple[Bound, ...], exchange: Exchange) -> ResponseHead | None:
    """What modify_response_headers makes of a head, as a head of our own; None when a plugin failed and the client has its 500.

    What frames the message the hooks do not see, and cannot change.
    """
    own = ResponseHead.made(head.status, forwardable_fields(head))
    if not chain.run_all(hooks, exchange, own):
        return None
    block = render_fields(own.headers)
    length = head.fields.get(b"content-length")
    if length is not None and head.status != 204:
        block += b"Content-Length: %b\r\n" % length
    own.block, own.reason, own.framing = block, head.reason, head.framing
    own.fields = {name.lower(): value for name, value in own.headers}
    return own
