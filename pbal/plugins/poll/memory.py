"""The memory store: queues inside the process, nothing to install.

What it holds is one dict of plain values, so that a reload can carry it. Queues are kept in the order of their last
message; the one stored to longest ago is the first to go, when its ttl is over or when all together hold more than the limit.
"""

from collections.abc import Callable
from math import inf
from typing import Any


class MemoryStore:
    """Queues by key. Units: octets, seconds."""

    def __init__(self, now: Callable[[], float], ttl: float, content: dict[bytes, tuple[bytes, float]] | None = None) -> None:
        self._now = now
        self.ttl = ttl
        """Seconds after its last message that a queue lives."""
        self.content: dict[bytes, tuple[bytes, float]] = {} if content is None else content
        """Key to (value, time of the last message), longest ago first."""
        self.size = sum(len(key) + len(value) for key, (value, _) in self.content.items())
        self.evicted: list[tuple[bytes, int]] = []
        """(key, octets) of queues that went for want of room, since somebody looked."""
        self._expired = 0

    def append(self, key: bytes, data: bytes) -> bytes:
        """Add octets behind a queue; its whole value now."""
        before = self.take(key)
        return self._store(key, before + data)

    def put_back(self, key: bytes, data: bytes) -> bytes:
        """Add octets in front of a queue; its whole value now."""
        before = self.take(key)
        return self._store(key, data + before)

    def replace(self, key: bytes, value: bytes) -> None:
        """Set a queue's whole value; b"" ends it."""
        self.take(key)
        if value:
            self._store(key, value)

    def _store(self, key: bytes, value: bytes) -> bytes:
        self.content[key] = (value, self._now())
        self.size += len(key) + len(value)
        return value

    def take(self, key: bytes) -> bytes:
        """Remove a queue and return its value, b"" if there is none."""
        found = self.content.pop(key, None)
        if found is None:
            return b""
        value, stored = found
        self.size -= len(key) + len(value)
        if stored < self._now() - self.ttl:
            self._expired += 1
            return b""
        return value

    def peek(self, key: bytes) -> bytes:
        """A queue's value, b"" if there is none."""
        value, stored = self.content.get(key, (b"", inf))
        return b"" if stored < self._now() - self.ttl else value

    def make_room(self, limit: int) -> int:
        """Drop the queues stored to longest ago until all together fit; how many went."""
        gone = 0
        while self.size > limit and self.content:
            key = next(iter(self.content))
            self.evicted.append((key, len(self.take(key))))
            gone += 1
        return gone

    def expire(self) -> int:
        """Drop queues whose time is over; how many went since this was last asked."""
        oldest = self._now() - self.ttl
        for key in [key for key, (_, stored) in self.content.items() if stored < oldest]:
            self.take(key)
        gone, self._expired = self._expired, 0
        return gone

    def describe(self) -> dict[str, Any]:
        """For `show store`."""
        return {"queues": len(self.content), "octets": self.size}
