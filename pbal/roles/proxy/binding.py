"""Sticky sessions on their way: the cookie comes off the request, and goes with the answer of a node that the client is not bound to yet.

Which node a cookie names, the pool decides when it picks one (model/pool.py); here is only what the two sides see of it. A node never
sees the cookie: it is pbal's own, and an application that logs or forwards its cookies would give it away.
"""

from pbal.http1.events import RequestHead
from pbal.model.exchange import Exchange
from pbal.model.pool import Node
from pbal.model.sticky import Sticky


def unbound(request: RequestHead, sticky: Sticky) -> RequestHead:
    """The request without the cookie. One that has none is returned as it is."""
    header = request.fields.get(b"cookie", b"")
    return request.altered(b"Cookie", sticky.without(header)) if sticky.found(header) else request


def unbound_fields(fields: list[tuple[bytes, bytes]], sticky: Sticky) -> list[tuple[bytes, bytes]]:
    """The same of the fields of a plugin's question, which may hand a client's cookies on."""
    found: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        left = sticky.without(value) if name.lower() == b"cookie" and sticky.found(value) else value
        if left is not None:
            found.append((name, left))
    return found


def binding(exchange: Exchange, status: int, node: Node, sticky: Sticky, counts: dict[str, int]) -> bytes:
    """The line of a head that binds the client to the node that answers it; b"" where its cookie says so already.

    An error of the node's (5xx) binds nobody: a node that fails at once would draw clients to it.
    """
    said = sticky.found(exchange.request.fields.get(b"cookie", b""))
    if node.cookie in said:
        counts["sticky_kept"] += 1
        return b""
    if any(not sticky.signed(value) for value in said):
        counts["sticky_refused"] += 1
    if status >= 500:
        return b""
    counts["sticky_bound"] += 1
    return sticky.field(node.cookie, exchange.scheme == b"https")
