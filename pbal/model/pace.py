"""What ten thousand clients do at one moment, a few of them in a turn of the loop.

When a network breaks, a room closes or a server comes back, a thousand ends or requests come in one look at the sockets, and nothing
that is written goes out before the last of them is served. So a connection whose peer has left only says so, and is
closed when its turn comes; and after SLICE requests the next ones wait for a turn, in the order of their coming. Who asks for something
does not stand behind those who have left.

Where few come at once this costs an addition each: `begun` counts on over the turns, and only the request that finds it full asks for
the next turn, which empties it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE: Final = 64
"""Requests begun in one turn, and half as many connections closed: two or three milliseconds."""


class Pace:
    """That of one server."""

    def __init__(self) -> None:
        self._requests: deque[Callable[[], None]] = deque()
        self._goodbyes: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self.begun = 0
        """Requests begun without waiting, since a turn was last asked for. Above SLICE: wait."""

    def later(self, call: Callable[[], None]) -> None:
        """Take up a request when its turn comes."""
        self._requests.append(call)
        self._schedule()

    def goodbye(self, call: Callable[[], None]) -> None:
        """Close a connection when its turn comes."""
        self._goodbyes.append(call)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        try:
            for waiting, most in ((self._requests, SLICE), (self._goodbyes, SLICE // 2)):
                for _ in range(min(most, len(waiting))):
                    waiting.popleft()()
        finally:  # one that fails ends no other's turn
            self.begun = SLICE if self._requests else 0  # who comes while others wait stands behind them
            if self._requests or self._goodbyes:
                self._schedule()
