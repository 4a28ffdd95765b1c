"""What the hub asks of a store. Two keep this promise: memory.py, and courier.py with memcached.

A store brings what it has to the hub: values that it took out of queues (`Hub.deliver`, poll_keep = taken), or what it keeps
of them (`Hub.tell`, poll_keep = confirmed and ttl). Answers come through callbacks: the memory store calls them before it returns,
memcached's some turns later. So a publish on the memory store is answered in the turn that brought it, and none needs a task.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .positions import BadPosition

if TYPE_CHECKING:
    from .lot import Reader
    from .memcached import Server
    from .settings import Settings

Queues = list[tuple[bytes, bytes]]
"""(store key, value) pairs."""


class StoreError(Exception):
    """A store call that failed: refused, broken, too slow, or the server is down. The text is for people."""

    def __init__(self, message: str, unsure: bool = False) -> None:
        """`unsure`: it may have been carried out."""
        super().__init__(message)
        self.unsure = unsure


class TooLarge(StoreError):
    """A message that the store does not take because of its size, and never will. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A queue as it lies in the store, without its header; `place` is its end where it has positions."""

    value: bytes
    place: bytes | None = None


Done = Callable[[StoreError | BadPosition | None], None]
Looked = Callable[[Seen | StoreError], None]
BoardWork = Callable[[Callable[[list[bytes]], "dict[Server, list[bytes]]"]], Coroutine[Any, Any, None]]


class Board(ABC):
    """Small keys beside the queues, which other pbals see: presence.py keeps them."""

    @abstractmethod
    def read(self, tell: Callable[[bytes, bytes], None], keys: list[bytes]) -> None:
        """Read keys: `tell` is called with each and its value, b"" where there is none, or the store fails."""

    @abstractmethod
    def work(self, work: BoardWork) -> None:
        """Run what brings keys up to date, with what groups them by server."""


class Store(ABC):
    """Where messages wait. Keys are of the store, prefix included."""

    first_look: float = 0.0
    """Seconds that a poll waits at least, so that the store can say what it has."""

    @property
    def board(self) -> "Board | None":
        """Where pbals that share the queues tell each other who is at them; None: nobody shares them."""
        return None

    @property
    def sweeps(self) -> int:
        """How often the store was asked for all that is waited for."""
        return 0

    @abstractmethod
    def holds(self, reader: "Reader") -> bool:
        """Whether this reader would be answered at once. A store that would have to ask says False."""

    @abstractmethod
    def began(self, reader: "Reader", came: Iterable[bytes]) -> None:
        """A reader was parked: look for what it lacks. Of these of its queues it has just said where it stands.

        Only that confirms (poll_keep = confirmed): a place to which pbal has moved it since was sent, and perhaps never arrived.
        """

    @abstractmethod
    def left(self, keys: Iterable[bytes]) -> None:
        """A reader waits for these queues no more; it may come back within the ttl."""

    @abstractmethod
    def wake(self, key: bytes) -> None:
        """Look at a queue now, if somebody waits for it."""

    @abstractmethod
    def append(self, key: bytes, data: bytes, done: Done) -> None:
        """Add a framed message behind a queue, and wake it."""

    @abstractmethod
    def put_back(self, queues: Queues) -> None:
        """Put taken messages back in front of their queues."""

    @abstractmethod
    def look(self, key: bytes, done: Looked) -> None:
        """See a queue, and leave it as it is."""

    @abstractmethod
    def trim(self, key: bytes, place: bytes | None, done: Done) -> None:
        """Drop what lies before a place, or all of it."""

    def names(self) -> Iterable[bytes]:
        """Keys of queues that hold something, as far as the store can tell."""
        return ()

    @abstractmethod
    def changed(self, settings: "Settings") -> None:
        """Tunables were set that leave the store as it is."""

    @abstractmethod
    async def rest(self) -> None:
        """Before a reload: wait, for a bounded time, for what is in flight."""

    @abstractmethod
    def go_on(self) -> None:
        """Begin, or after rest() go on, if there is anything to look for."""

    @abstractmethod
    def carry(self) -> dict[str, Any]:
        """What the next generation needs, as plain data."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    def servers(self) -> "Iterable[tuple[Server, float]]":
        """Its servers, each with the lag of its watch in seconds."""
        return ()

    @property
    def octets(self) -> int:
        """What it holds in this process."""
        return 0

    @abstractmethod
    def rows(self, second: float) -> Iterator[tuple[object, ...]]:
        """For `show store`: store, state, since, keys and milliseconds of the last sweep, watch, lag in milliseconds, detail, and
        of round trips their number, median and p99 in milliseconds; errors, and the last one."""
