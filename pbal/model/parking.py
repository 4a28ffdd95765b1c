"""A client that is parked, and the record under which it waits: what stands between whoever parks it and its connection.

    parked    answer() -> not parked any more;  begin() -> streams;  upgrade() -> upgraded
    streams   push();  finish() -> not parked any more
    upgraded  push() and record.received();  finish() -> closed

The record is the parking side's, and small: nothing else is kept of a client that waits. Its gone() is called at most once, and never
after the parking side has ended the wait itself by answer(), finish() or kick().
"""

from abc import ABCMeta, abstractmethod
from typing import Protocol

from pbal.http1.encoder import Fields
from pbal.model.deliveries import PATIENCE, OnLost


class Parked(Protocol):
    """What a client connection tells of a request that is parked on it."""

    def gone(self) -> None:
        """The client left, or its connection was closed by the server's own shutdown. Called at most once."""


class Patient(Parked, Protocol):
    """A record that may be answered although its client has sent its end."""

    def half_closed(self) -> bool:
        """The client has sent its last octet: it left, or has asked all it wanted. True: it is answered soon. False: gone() follows."""


class Upgraded(Parked, Protocol):
    """The record of a client that was upgraded to another protocol."""

    def received(self, data: bytes) -> None:
        """Octets from the client, as they come. What this raises ends the connection; gone() follows."""


class Waiting(metaclass=ABCMeta):
    """A client that is parked."""

    peer: bytes
    """The address at the other end, without port, as text: b"127.0.0.1". Who is believed to be behind it: client_address."""

    @property
    @abstractmethod
    def peer_name(self) -> str:
        """The peer's address and port, for people."""

    @abstractmethod
    def answer(self, record: Parked, status: int, fields: Fields, body: bytes, on_lost: OnLost | None, patience: float = PATIENCE) -> bool:
        """Answer the request parked under `record`, as Exchange.respond does. Returns False also if that request is not parked any more.

        Raises: AnswerRefused if a response has begun with begin() or upgrade().
        """

    @abstractmethod
    def begin(self, record: Parked, status: int, fields: Fields, data: bytes) -> bool:
        """Begin a response of unknown length, with the first octets of its body. The client stays parked under `record`.

        It goes out in chunks; to a client of HTTP/1.0 until the connection closes; to a HEAD without a body. Returns False if the client
        has gone. Raises: AnswerRefused if a response has begun; IllegalField as `answer` does, and the client gets 500 likewise.
        Source: RFC 9112 sections 6.3 and 7.1.
        """

    @abstractmethod
    def push(self, record: Parked, data: bytes, on_lost: OnLost | None = None, patience: float = PATIENCE) -> bool:
        """Send more octets on what begin() or upgrade() began. Returns False if nothing began under `record`, or the client has gone.

        `on_lost` and `patience` are those of Exchange.respond. Of several that are lost, the newest is told first.
        """

    @abstractmethod
    def finish(self, record: Parked, data: bytes) -> bool:
        """Send the last octets. pbal does not call record.gone(), and the client's next request may come.

        An upgraded connection is closed after the octets have gone out. Returns False as push() does.
        """

    @abstractmethod
    def upgrade(self, record: Upgraded, protocol: bytes, fields: Fields, data: bytes) -> bool:
        """Answer 101 and `data`, and speak `protocol` from then on. The client stays parked under `record`.

        Octets of the client go to record.received(), those that are there already before this returns. push() sends octets as they are.
        The client's end is record.gone(), and closes. Returns False if the client has gone.
        Raises: AnswerRefused if a response has begun, the client speaks HTTP/1.0, or a body of the request is still to come; IllegalField
        as `answer` does. Source: RFC 9110 section 7.8.
        """

    @abstractmethod
    def unsent(self, record: Parked) -> int:
        """Octets sent under `record` that the system has not taken yet, since the client reads too slowly."""

    @abstractmethod
    def repark(self, record: Parked) -> bool:
        """Put another record in place of the parked client's, for a new generation. Returns False if it is not parked any more."""

    @abstractmethod
    def kick(self, record: Parked) -> None:
        """Close the connection now, without an answer. pbal does not call record.gone()."""
