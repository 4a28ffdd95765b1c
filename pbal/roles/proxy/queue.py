"""Who waits for a connection to a node: three classes, each first come, first served.

    high     looked at first
    normal   nearly everybody
    low      looked at last

A seeker is here from the moment that no connection could be given to it until one is, or it leaves. It may have one *coming*: a
connection that is being opened because of it. Who has none *lacks* one, and only what becomes free helps it: a place on a node with a
limit, a node that is being verified, a node that is added. A connection goes to the first who can use it, whoever it was opened for;
the two then swap what is coming to them. So `lacking` is zero as long as nothing is limited, and whoever frees a place asks this
one number.

This file knows order, and neither nodes nor sockets: backends.py says who can use what.

An OrderedDict, and not a dict: the first entry of a dict whose front was emptied is found by going over what was there.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from pbal.net.backend import BackendConnection
from pbal.roles.proxy.seeker import HIGH, LOW, NORMAL, Seeker

CLASSES: Final = (("normal", NORMAL), ("highpri", HIGH), ("lowpri", LOW))
"""As the console calls them, in the order of Perlbal's."""


class Queue:
    """See above."""

    __slots__ = ("_lines", "lacking")

    def __init__(self) -> None:
        self._lines: tuple[OrderedDict[Seeker, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.lacking = 0
        """How many wait with no connection coming."""

    def __len__(self) -> int:
        high, normal, low = self._lines
        return len(high) + len(normal) + len(low)

    def join(self, seeker: Seeker) -> None:
        """Wait, with nothing coming yet. Who waited before, and was disappointed, waits at the front of its class."""
        line = self._lines[seeker.priority]
        line[seeker] = None
        if seeker.waited:
            line.move_to_end(seeker, last=False)
        seeker.waited = True
        seeker.coming = None
        self.lacking += 1

    def leave(self, seeker: Seeker) -> BackendConnection | None:
        """Wait no longer. What was coming to it is somebody else's from here."""
        line = self._lines[seeker.priority]
        if seeker not in line:
            return None
        del line[seeker]
        coming, seeker.coming = seeker.coming, None
        if coming is None:
            self.lacking -= 1
        return coming

    def expect(self, seeker: Seeker, backend: BackendConnection) -> None:
        """`backend` is being opened for one who lacked one."""
        seeker.coming = backend
        self.lacking -= 1

    def disappoint(self, seeker: Seeker) -> None:
        """What was coming to one who waits comes no more."""
        seeker.coming = None
        self.lacking += 1

    def has(self, seeker: Seeker) -> bool:
        """Whether it waits here."""
        return seeker in self._lines[seeker.priority]

    def in_order(self, relieved: bool = False) -> Iterator[Seeker]:
        """In the order in which they are served; `relieved`: in a turn in which the normal class goes before the high one.

        Nobody may come or go meanwhile.
        """
        high, normal, low = self._lines
        for line in (normal, high, low) if relieved else (high, normal, low):
            yield from line

    @property
    def normal(self) -> int:
        """How many are of the normal class."""
        return len(self._lines[NORMAL])

    def first(self, priority: int) -> Seeker | None:
        """Who waits longest in a class."""
        return next(iter(self._lines[priority]), None)

    def number(self, priority: int) -> int:
        """How many wait in a class."""
        return len(self._lines[priority])
