"""Token buckets: how often each of very many clients may do something.

A bucket is one number (GCRA, as ATM switches did it): the moment at which it is full again. What is done moves it on by a token's time;
what would move it further than `burst` tokens into the future is refused, and moves nothing. A bucket whose moment has come is full,
and so is one that is not there, so those are dropped: each charge looks at the few that were touched longest ago. No timer, no task.

With `most` clients at a time, the one that was touched longest ago is forgotten: memory is bounded, and who has a million addresses gets a
burst for each, as he would anyway. To fail closed instead would let him lock everybody out. Who is refused is touched, too: to go on
asking is no way to be forgotten.
"""

import socket
from collections.abc import Callable
from typing import Final

MOST_WATCHED: Final = 50_000
"""Clients whose rate is watched; 8 MB."""
LOOKS: Final = 4
"""Buckets that a charge looks at to drop those that are full: more than it can add."""


def holder(address: bytes) -> bytes:
    """Whom an address stands for: itself, or the /64 of an IPv6 address. Whoever has one of those has as a rule all of it."""
    if b":" not in address:
        return address
    try:
        return socket.inet_pton(socket.AF_INET6, address.partition(b"%")[0].decode("ascii"))[:8]
    except (OSError, ValueError):
        return address


def _nothing() -> None:
    pass


class Buckets:
    """The buckets of all clients. `now` is the clock's, `rate` in tokens a second (0 is none), `burst` how many fit into one."""

    __slots__ = ("_full_at", "_now", "burst", "forgotten", "most", "rate")

    def __init__(self, now: Callable[[], float], rate: float, burst: int) -> None:
        self._now = now
        self.rate = rate
        self.burst = burst
        self.most = MOST_WATCHED
        self.forgotten: Callable[[], None] = _nothing
        """Called for each client that had to be forgotten before its bucket was full."""
        self._full_at: dict[bytes, float] = {}

    def take(self, who: bytes) -> float:
        """Take one from somebody's bucket, now. 0, or, where nothing is left, the seconds until there will be."""
        now = self._now()
        wait = self.wait(who, now)
        if wait:
            self.touch(who)
        else:
            self.charge(who, now)
        return wait

    def wait(self, who: bytes, now: float) -> float:
        """0 if there is one in somebody's bucket, else the seconds until there will be. Nothing is changed."""
        wait = max(self._full_at.get(who, now), now) - now - (self.burst - 1) / self.rate
        return wait if wait > 1e-9 else 0.0

    def charge(self, who: bytes, now: float) -> None:
        """Take one from it."""
        full_at = self._full_at
        full_at[who] = max(full_at.pop(who, now), now) + 1 / self.rate
        for _ in range(LOOKS):
            oldest = next(iter(full_at))
            if full_at[oldest] > now:
                break
            del full_at[oldest]
        if len(full_at) > self.most:
            del full_at[next(iter(full_at))]
            self.forgotten()

    def touch(self, who: bytes) -> None:
        """Somebody was refused: do not forget it before others."""
        if who in self._full_at:
            self._full_at[who] = self._full_at.pop(who)

    def __len__(self) -> int:
        return len(self._full_at)
