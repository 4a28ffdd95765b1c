"""Several services may have connections to the nodes of one pool, and the nodes may have limits: who gets a place that becomes free.

A service in which somebody waits with no connection coming is *starved*. Whoever frees a place, or may have, says `wake`; in the next
turn of the loop each starved service may take one place, in turn, until none of them can take any. Who took one goes to the end, so a
busy service cannot keep a quiet one waiting. It is the next turn of the loop, since whoever frees a place is in the middle of
something; and one turn serves SERVED at most.
"""

import asyncio
from abc import ABCMeta, abstractmethod
from typing import Final

SERVED: Final = 100
"""Places given in one turn of the loop: each is a connection that is begun, or a request that is sent. A few milliseconds."""


class Sharer(metaclass=ABCMeta):
    """The connections of one service to the pool."""

    @abstractmethod
    def lacks(self) -> bool:
        """Whether somebody waits with no connection coming."""

    @abstractmethod
    def serve_one(self) -> bool:
        """Find a connection for the first of those. False: there is no place for anybody."""

    @abstractmethod
    def rest_on(self, node: object) -> int:
        """How many of its connections to a node are idle."""

    @abstractmethod
    def close_on(self, node: object, number: int) -> int:
        """Close so many of them at most. How many it closed."""


class Sharing:
    """Those who share a pool."""

    __slots__ = ("_due", "sharers", "starved")

    def __init__(self) -> None:
        self.sharers: list[Sharer] = []
        self.starved: dict[Sharer, None] = {}
        """Those in which somebody waits with no connection coming; the one whose turn it is first."""
        self._due = False

    def leave(self, sharer: Sharer) -> None:
        """It has no connections here any more."""
        self.sharers.remove(sharer)
        self.starved.pop(sharer, None)

    def lack(self, sharer: Sharer) -> None:
        """Somebody waits there with no connection coming."""
        self.starved[sharer] = None

    def next_starved(self) -> Sharer | None:
        """Whose turn it is."""
        for sharer in self.starved:
            if sharer.lacks():
                return sharer
        return None

    def took(self, sharer: Sharer) -> None:
        """It has a place that became free: the others' turn is before its next one."""
        if sharer in self.starved:
            del self.starved[sharer]
            self.starved[sharer] = None

    def wake(self) -> None:
        """A place may have become free."""
        if self.starved and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        self._due = False
        left = SERVED
        progress = True
        while progress and left > 0:
            progress = False
            for sharer in list(self.starved):
                self.starved.pop(sharer, None)
                if not sharer.lacks():
                    continue
                if sharer.serve_one():
                    progress = True
                    left -= 1
                if sharer.lacks():
                    self.starved[sharer] = None
        if progress:
            self.wake()

    def rest_on(self, node: object) -> int:
        """How many connections to a node are idle, whoever's they are."""
        return sum([sharer.rest_on(node) for sharer in self.sharers])

    def close_idle(self, node: object, too_many: int) -> None:
        """A node takes so many connections and no more, and one is to be opened: close idle ones, whoever's they are."""
        too_many += self.rest_on(node)
        for sharer in self.sharers:
            if too_many <= 0:
                return
            too_many -= sharer.close_on(node, too_many)
