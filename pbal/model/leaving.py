"""Connections whose peers have left, closed a few in a turn of the loop.

When a network breaks or a room closes, ten thousand ends come in one look at the sockets, and closing them all there would hold
every other client up. So who sees its peer leave only says so, counts as closed from then on, and is closed when its turn comes.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

SLICE: Final = 64
"""Connections closed in one turn: about a millisecond."""


class Leaver(Protocol):
    """Whose peer has left."""

    def depart(self) -> None: ...


class Leaving:
    """Those of one server."""

    def __init__(self) -> None:
        self._waiting: deque[Leaver] = deque()

    def add(self, leaver: Leaver) -> None:
        """Close it soon."""
        self._waiting.append(leaver)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        for _ in range(min(SLICE, len(waiting))):
            waiting.popleft().depart()
        if waiting:
            asyncio.get_running_loop().call_soon(self._turn)
