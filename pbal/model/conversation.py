"""What a plugin brings to have a role of its own: one that speaks another protocol than HTTP.

The plugin names its roles in Plugin.conversations, each with a class whose instances are one connection each. pbal does everything about
the socket: accepting, TLS, PROXY headers, counting, idle_timeout, what `socks` shows, the end (net/conversing.py). A connection stays with
the generation of the plugin that it began with; those that come after a RELOAD get the new one's class.
"""

from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbal.schema.roles import Role

if TYPE_CHECKING:
    from pbal.model.service import Service


class Wire(metaclass=ABCMeta):
    """The connection, as a Conversation sees it."""

    @property
    @abstractmethod
    def peer_name(self) -> str:
        """The peer's address and port, for people."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes that were written and that the peer has not taken. While there are more than buffer_size, nothing more is read."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes; nothing once the connection is over."""

    @abstractmethod
    def close(self) -> None:
        """End the connection when everything that was written is out."""


class Conversation:
    """One connection of a role that a plugin brings. What a method raises ends the connection, and is told as a fault of the plugin."""

    def __init__(self, service: "Service", wire: Wire) -> None:
        self.service = service
        self.wire = wire

    def begin(self) -> None:
        """The connection is there."""

    def received(self, data: bytes) -> None:
        """Bytes came."""

    def ended(self) -> None:
        """The peer has sent its last byte, and can still read. The connection ends here, unless a subclass says otherwise."""
        self.wire.close()

    def gone(self) -> None:
        """The connection is over. Called once, whatever ended it."""


@dataclass(frozen=True, slots=True)
class OwnRole:
    """A role that a plugin brings: how it is declared, and who speaks."""

    role: Role
    """With http=False: what answers HTTP is a matter of hooks."""
    conversation: type[Conversation]
