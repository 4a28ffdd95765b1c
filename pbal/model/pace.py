"""What ten thousand clients do at one moment, a few of them in a turn of the loop.

When a network breaks, a room closes or a server comes back, a thousand ends or requests come in one look at the sockets, and nothing
that is written goes out before the last of them is served. So a connection whose peer has left only says so, and is
closed when its turn comes; and after SLICE requests the next ones wait for a turn, in the order of their coming.

Where few come at once this costs an addition each: `begun` counts on over the turns, and only the request that finds it full asks for
the next turn, which empties it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE: Final = 64
"""Requests begun, or connections closed, in one turn: about two milliseconds."""


class Pace:
    """That of one server."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self.begun = 0
        """Requests begun without waiting, since a turn was last asked for. Above SLICE: wait."""

    def later(self, call: Callable[[], None]) -> None:
        """Call this when its turn comes."""
        self._waiting.append(call)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        for _ in range(min(SLICE, len(waiting))):
            waiting.popleft()()
        if waiting:
            self.begun = SLICE  # who comes now stands behind
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self.begun = 0
