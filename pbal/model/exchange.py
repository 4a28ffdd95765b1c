"""One request and its response, as plugins and roles see it.

The client connection behind an exchange is reached only through Downstream, which is as narrow as parking needs:
answer, close, tell me when it has gone. A parked poll keeps that connection and drops the exchange, its head and its
body; ten thousand of them then cost little more than their sockets.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from pbal.http1.events import RequestHead

if TYPE_CHECKING:
    from pbal.model.service import Service

Fields = Iterable[tuple[bytes, bytes]]


class Parked(Protocol):
    """What a client connection tells of a request that is parked on it."""

    def gone(self) -> None:
        """The client left, or its connection was closed by the server's own shutdown. Called at most once."""


class Downstream(Protocol):
    """A client connection, as far as models, roles and plugins may know it."""

    service: "Service"

    @property
    def peer(self) -> bytes:
        """The client's address without port, as text: b"127.0.0.1"."""

    @property
    def peer_name(self) -> str:
        """The client's address and port, for people."""

    def reply(self, status: int, fields: Fields = (), body: bytes = b"", on_lost: Callable[[], None] | None = None) -> bool:
        """Answer the current (or parked) request whole. False: the client has gone, nothing was sent.

        `on_lost` is called at most once, later, if the connection broke before the socket took every octet.
        """

    def park(self, record: Parked) -> None:
        """Keep the client waiting without an exchange, until reply(), kick() or record.gone()."""

    def kick(self) -> None:
        """Close the connection now, without an answer; record.gone() is not called."""


class Sink(Protocol):
    """Where the octets of a request body go, and who hears of the client's end."""

    def body_data(self, data: bytes) -> None: ...
    def body_end(self) -> None: ...
    def client_gone(self) -> None: ...
    def client_drained(self) -> None:
        """The client took what was waiting for it: a paused sender may go on."""

    def client_full(self) -> None:
        """More is waiting for the client than buffer_size: the sender should pause."""


class Exchange:
    """One request, from its head to the end of its answer."""

    __slots__ = (
        "_body", "body_complete", "body_limit", "client", "hops", "received", "request", "service", "sink", "started",
    )  # fmt: skip

    def __init__(self, client: Any, service: "Service", request: RequestHead, now: float) -> None:
        self.client = client
        self.service = service
        self.request = request
        self.sink: Any = None
        self.started = now
        self.body_complete = request.framing == 0
        self.body_limit: int | None = None
        """Octets of body after which 413 is answered; None: the service's max_body. A plugin may lower it."""
        self.received = 0
        """Octets of body that came so far."""
        self.hops = 0
        """Selectors passed through."""
        self._body: Any = None

    @property
    def answered(self) -> bool:
        """Whether nothing is left to answer here: it was answered, parked, or the client's connection has ended."""
        return self.client.exchange is not self

    @property
    def method(self) -> bytes:
        return self.request.method

    @property
    def path(self) -> bytes:
        """The raw path, undecoded, without the query."""
        return self.request.path

    def read_body(self) -> bytes:
        """The whole body. Only in proxy_read_request and after it; b"" when there is none."""
        if self._body is None:
            return b""
        return self._body.read()  # type: ignore[no-any-return]

    @property
    def body_size(self) -> int:
        """Octets of body collected so far."""
        return 0 if self._body is None else self._body.size

    def collected(self, body: Any) -> None:
        """The role hands in what it collected."""
        self._body = body

    def collected_body(self) -> Any:
        """What collected() was given, or None."""
        return self._body

    def respond(self, status: int, fields: Fields = (), body: bytes = b"") -> bool:
        """Answer whole. False: the client has gone."""
        return self.client.reply(status, fields, body)  # type: ignore[no-any-return]

    def park(self, record: Parked) -> None:
        """Let the client wait under `record` (see Downstream.park). The exchange must not be used after this."""
        self.client.park(record)

    def hand_to(self, service: "Service") -> None:
        """Give the exchange to another service, as a selector does.

        Raises: ConfigError if the service's role answers no requests.
        """
        self.service = service
        service.begin(self)
