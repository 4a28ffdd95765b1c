"""Who asks for a backend: a relay for its client's request, an errand for a plugin's question.

seek -> assigned           a bored backend
        waits -> assigned            one that was connected meanwhile, or became free
                 connect_failed      and seek again, on a node not tried yet
                 give_up             after queue_timeout, or because no node is left
"""

from abc import abstractmethod
from typing import Final

from pbal.model.balance import Asking
from pbal.model.pool import Node, Pool
from pbal.net.backend import BackendConnection
from pbal.roles.proxy.reading import Reading

MOST_ATTEMPTS: Final = 4
"""Times a request is sent; connection failures are bounded by the number of nodes instead."""

HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2
"""Classes of the queue (queue.py), in the order in which they are served."""


class Seeker(Reading):
    """See above. While it waits it is in the queue of a Backends."""

    started: float
    """Since when it waits (clock time)."""
    tried: tuple[Node, ...]
    """Nodes that could not be reached, or broke."""
    again_in: Pool | None
    """The pool whose budget it takes room of, because it was sent again (retry.py)."""
    fresh: bool
    """Whether only a new connection will do: a kept one was stale."""
    priority: int
    """HIGH, NORMAL or LOW. It may change in `waits`, and not after."""
    waited: bool
    """Whether it was in the queue already."""
    coming: BackendConnection | None
    """While it waits: the connection that is being opened for it, if one is."""
    bound: Node | None
    """While it waits: the only node that will do, because the pool chooses by what the request says."""
    said: bytes
    """What a connection has to begin with to be of use: a PROXY header that names the client. Empty: nothing."""

    @property
    @abstractmethod
    def asking(self) -> Asking | None:
        """The request, for who chooses a node by it."""

    @abstractmethod
    def seek(self) -> None:
        """Ask for a backend on a node not tried yet."""

    @abstractmethod
    def waits(self, node: Node | None) -> None:
        """It is about to wait: for a connection that is opened to `node`; None: until one becomes free."""

    @abstractmethod
    def assigned(self, backend: BackendConnection) -> None:
        """`backend` is yours."""

    @abstractmethod
    def connect_failed(self, node: Node, status: int) -> None:
        """The connection to `node` could not be made: `status` 502 (refused) or 504 (too slow)."""

    @abstractmethod
    def give_up(self, status: int, why: str = "") -> None:
        """None will come; `status` is what a client would be told, `why` what an operator reads."""
