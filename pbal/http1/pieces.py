"""A response body on its way through a coder: as much at once as a turn of the loop allows; the rest waits here (net/pressing.py)."""

from collections import deque

from pbal.http1.coding import Coder


class Pieces:
    """A body that is compressed piece by piece."""

    __slots__ = ("coder", "ends", "flushes", "trailer", "waiting")

    def __init__(self, coder: Coder, flushes: bool) -> None:
        self.coder = coder
        self.flushes = flushes
        """Whether its length was not known: what comes of it may be waited for, and goes out at once."""
        self.waiting: deque[memoryview] = deque()
        """What is to be compressed in other turns of the loop."""
        self.ends = False
        self.trailer = b""
