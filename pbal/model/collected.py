"""A request body that is held before it is passed on, as who sends it sees it; model/bodies.py holds it."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable


class CollectedBody(metaclass=ABCMeta):
    """A request body that is held: whole, or the beginning of one whose rest goes to a node as it comes."""

    size: int
    """Octets that are held."""
    whole: bool

    @property
    @abstractmethod
    def spooled(self) -> bool:
        """Whether it is in a file."""

    @property
    @abstractmethod
    def parts(self) -> list[bytes]:
        """Its octets in pieces, where it is in memory."""

    @abstractmethod
    def read(self) -> bytes:
        """All of it."""

    @abstractmethod
    def read_now(self, place: int, octets: int) -> bytes | None:
        """Of one in a file: octets from `place` on that the system has at hand; None where it would wait for the disk."""

    @abstractmethod
    def read_soon(self, place: int, octets: int, done: Callable[[bytes | None, Exception | None], None]) -> None:
        """Of one in a file: so many octets from `place` on, off the loop; or why they cannot be had. Nobody is told after close()."""

    @abstractmethod
    def close(self) -> None:
        """Give its memory or its file back. Twice is once."""
