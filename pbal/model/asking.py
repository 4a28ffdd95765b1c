"""A question that a plugin has for a node of its service's pool, beside the requests that pass through: one GET, one small answer.

    asked -> NodeAnswer     a whole response, whatever its status
             NoAnswer       no node, none in time, none that could be read, or one that is too long

`tell` is called once, and never before `Service.ask` has returned. Whoever asks owns nothing: the role does the asking, and has
the connections.
"""

from collections.abc import Callable
from typing import Final

from pbal.http1.encoder import IllegalField, render_fields

MOST: Final = 65536
"""Octets of an answer's body. What is longer is no answer to a question."""


class NodeAnswer:
    """What a node answered to Service.ask."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        """The status of the response."""
        self.fields = fields
        """Values by lower-case name, as RequestHead.fields."""
        self.body = body
        """The whole body, at most 64 KB."""


class NoAnswer:
    """No node gave an answer to Service.ask."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
        """What went wrong, for the log."""


OnAnswer = Callable[[NodeAnswer | NoAnswer], object]


class Question:
    """One question."""

    __slots__ = ("fields", "target", "tell", "timeout")

    def __init__(self, target: bytes, fields: list[tuple[bytes, bytes]], tell: OnAnswer, timeout: float) -> None:
        """`fields` have no Host, if the node's own will do. Raises: IllegalField."""
        if not target.startswith(b"/") or any(octet <= 32 or octet >= 127 for octet in target):
            raise IllegalField(f"not a path: {target!r:.100}")
        render_fields(fields)
        self.target = target
        self.fields = fields
        self.tell = tell
        self.timeout = timeout
