"""Who asks the role for a backend: a relay for its client's request, an errand for a plugin's question.

seek -> assigned           a bored backend, or one that was connected meanwhile
        connect_failed     and seek again, on a node not tried yet
        give_up            after queue_timeout, or because no node is left
"""

from abc import abstractmethod
from typing import Final

from pbal.model.pool import Node, Pool
from pbal.net.backend import Attendant, BackendConnection

MOST_ATTEMPTS: Final = 4
"""Times a request is sent; connection failures are bounded by the number of nodes instead."""


class Seeker(Attendant):
    """See above. While it waits it is in the role's `waiting`."""

    started: float
    """Since when it waits (clock time)."""
    tried: tuple[Node, ...]
    """Nodes that could not be reached, or broke."""
    again_in: Pool | None
    """The pool whose budget it takes room of, because it was sent again (retry.py)."""

    @abstractmethod
    def seek(self) -> None:
        """Ask for a backend on a node not tried yet."""

    @abstractmethod
    def assigned(self, backend: BackendConnection) -> None:
        """`backend` is yours."""

    @abstractmethod
    def connect_failed(self, node: Node, status: int) -> None:
        """The connection to `node` could not be made: `status` 502 (refused) or 504 (too slow)."""

    @abstractmethod
    def give_up(self, status: int) -> None:
        """None will come; `status` is what a client would be told."""
