"""Connections to nodes that wait for a request, kept per node.

Those that had a worker's attention come first, and of them the longest rested: what a node sends too much has most time to show. One is
taken out only if it may still be used: it is open, its time is not over (Keep-Alive: timeout), and nothing unasked has come on it.

This file knows nodes and connections, and neither who waits for one nor how many there may be.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final

from pbal.model.clock import Clock
from pbal.model.pool import Node
from pbal.net import backend as link
from pbal.net.backend import BackendConnection

OF_A_CLIENT: Final = 5.0
"""Seconds for which a connection that names its client is kept for the next request of that client."""

_NONE: Final[deque[BackendConnection]] = deque()


class Bored:
    """See above."""

    __slots__ = ("by_node", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.by_node: dict[Node, deque[BackendConnection]] = {}
        """A node of which none waits has no entry, or an empty one."""

    def __len__(self) -> int:
        return sum(map(len, self.by_node.values()))

    def __iter__(self) -> Iterator[BackendConnection]:
        for stack in self.by_node.values():
            yield from stack

    def on(self, node: Node) -> deque[BackendConnection]:
        """Those of one node, the next to be taken first. Only to be read."""
        return self.by_node.get(node, _NONE)

    def take(self, node: Node, said: bytes) -> BackendConnection | None:
        """One to `node`, taken out; `said` is what it has to have begun with."""
        stack = self.by_node.get(node)
        if stack and said:
            stack = deque(backend for backend in stack if backend.said == said)
        while stack:
            backend = stack.popleft()
            if said:
                self.by_node[node].remove(backend)
            if backend.state is not link.BORED or backend.closing:
                continue
            if backend.due != inf and backend.due <= self.clock.now():
                backend.abort()
                continue
            if not backend.unread:
                return backend
            give_up_unread(backend)
        return None

    def add(self, backend: BackendConnection) -> None:
        """Nobody wants it now."""
        backend.state = link.BORED
        backend.deadline = inf
        backend.bored_since = self.clock.now()
        stack = self.by_node.get(backend.node)
        if stack is None:
            stack = self.by_node[backend.node] = deque()
        place = len(stack)
        if place and backend.attention:
            while place and not stack[place - 1].attention:
                place -= 1
        stack.insert(place, backend)

    def discard(self, backend: BackendConnection) -> None:
        """It is closed; it may never have been here."""
        stack = self.by_node.get(backend.node)
        if stack is not None:
            with contextlib.suppress(ValueError):  # it was not bored
                stack.remove(backend)
            if not stack:
                self.by_node.pop(backend.node, None)

    def close_on(self, node: Node) -> None:
        """Close those of one node."""
        for backend in self.by_node.pop(node, ()):
            backend.abort()

    def close_all(self) -> None:
        """Close every one."""
        for backend in list(self):
            backend.abort()
        self.by_node.clear()

    def tick(self, now: float) -> None:
        """Once a second: close those whose time is over."""
        for backend in [each for each in self if each.due <= now or (each.said and each.bored_since + OF_A_CLIENT < now)]:
            backend.abort()


def give_up_unread(backend: BackendConnection) -> None:
    """Give up a connection on which octets wait before its next request."""
    if backend.tls is None:
        backend.owner.backend_surprised(backend)
    backend.abort()
