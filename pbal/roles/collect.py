"""Holding a request body until all of it is there, or enough: the sink of its exchange meanwhile.

    memory    octets come, up to buffer_backend_connect                -> whole, at its end; else _overflow
    spool     octets come and go to disk (model/bodies.py)             -> whole, when its last octet is on the disk
              its client is paused while too much of it waits for the disk
    loading   of a spool that plugins want to read                     -> whole

A Collector is for plugins that want a body whole (proxy_read_request): what overflows goes to disk. An Upload (proxy/uploads.py) overflows
by the tunables of its service, which mostly means that the body goes on to a node while it comes.

Every way out: whole; sent on; refused, since there is no room for it or the disk fails (503); the client leaves, or is too slow (408),
or the body too large (413). The exchange owns the body, and closes it when it ends, whatever happened. Who is told of the disk asks
first whether the exchange is still its own.
"""

from collections.abc import Callable
from typing import Final

from pbal.model.bodies import UNFLUSHED, HeldBody
from pbal.model.bound import Bounds
from pbal.model.exchange import Exchange
from pbal.model.sink import Sink
from pbal.observe.access import NO_ROOM
from pbal.observe.recent import Trouble

RETRY_AFTER: Final = [(b"Retry-After", b"5")]
"""Uploads take seconds, and free their room when they end."""

Done = Callable[[Exchange, Bounds], None]


class Collector(Sink):
    """The sink of an exchange whose body is held. Calls `done` once, with the exchange and the hooks that read, when the body is whole."""

    __slots__ = ("_bodies", "_body", "_done", "_exchange", "_most", "_paused", "_reading")

    def __init__(self, exchange: Exchange, reading: Bounds, done: Done) -> None:
        service = exchange.service
        self._exchange = exchange
        self._reading = reading
        self._done = done
        self._bodies = bodies = service.world.bodies
        self._body = HeldBody(bodies)
        self._most: int = service.values["buffer_backend_connect"]
        """Octets kept in memory."""
        self._paused = False
        exchange.collected(self._body)
        exchange.sink = self

    def begin(self) -> None:
        """Have the body come, of a client that waits for 100 Continue."""
        self._exchange.stream.continue_body()

    # -- octets --------------------------------------------------------------------------------------------------

    def body_data(self, data: bytes) -> None:
        body = self._body
        if body.spool is not None:
            self._spool(data)
            return
        body.add(data)
        if body.size > self._most or self._bodies.crowded:
            self._overflow()

    def body_end(self) -> None:
        spool = self._body.spool
        if spool is None:
            self._whole()
        elif spool.unflushed:
            spool.flush()
        else:
            self._on_disk()

    def _overflow(self) -> None:
        """There is more of it than is kept in memory."""
        self.to_disk("plugin")

    def to_disk(self, why: str) -> bool:
        """From here on it goes to disk; False if there is no room, and the client has been told. `why` is in the access log."""
        exchange, body = self._exchange, self._body
        service = exchange.service
        if not self._bodies.room(max(exchange.request.framing, body.size)):
            self._no_room()
            return False
        body.to_disk(service.values["buffer_uploads_path"], self._wrote)
        service.world.counters.counts["bodies_spooled"] += 1
        exchange.note("spooled", why)
        if service.tracer is not None:
            exchange.trace(service.tracer, "spooled", why)
        return True

    def _spool(self, data: bytes) -> None:
        body = self._body
        if not self._bodies.room(len(data)):
            self._no_room()
            return
        body.add(data)
        if body.behind and not self._paused:
            self._paused = True
            self._exchange.stream.pause_body()

    def _wrote(self, error: Exception | None) -> None:
        """Octets are on the disk, or could not be put there."""
        exchange, spool = self._exchange, self._body.spool
        if exchange.sink is not self or spool is None:
            return
        if error is not None:
            self._failed(error)
        elif exchange.body_complete:
            if spool.unflushed:
                spool.flush()
            else:
                self._on_disk()
        elif self._paused and spool.unflushed <= UNFLUSHED // 2:
            self._paused = False
            exchange.stream.resume_body()

    # -- ways out ------------------------------------------------------------------------------------------------

    def _on_disk(self) -> None:
        """All of it is on the disk: plugins get it from memory."""
        if self._reading:
            self._body.load(self._loaded)
        else:
            self._whole()

    def _loaded(self, error: Exception | None) -> None:
        if self._exchange.sink is not self:
            return
        if error is not None:
            self._failed(error)
            return
        self._whole()
        self._body.forget()

    def _whole(self) -> None:
        self._body.whole = True
        self._exchange.sink = None
        self._done(self._exchange, self._reading)

    def _no_room(self) -> None:
        """max_spool is reached."""
        exchange = self._exchange
        service = exchange.service
        limit = service.world.server["max_spool"]
        service.world.counters.counts["spools_refused"] += 1
        service.world.log_limited(
            "max_spool",
            "service %(service)s: a request body was refused, since all of them together may take %(limit)d bytes of disk (max_spool)",
            {"event": "spool_refused", "service": service.name, "limit": limit},
        )
        self._refuse("no room for its body (max_spool)", b"No room for the request body.\n")

    def _failed(self, error: Exception) -> None:
        """The disk failed."""
        exchange = self._exchange
        service = exchange.service
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        service.world.counters.counts["spool_failures"] += 1
        service.world.log_limited(
            f"spool {service.name}",
            "service %(service)s: cannot keep a request body on disk: %(reason)s",
            {"event": "spool_failed", "service": service.name, "reason": reason},
        )
        self._refuse(f"cannot keep its body on disk: {reason}", b"No room for the request body.\n")

    def _refuse(self, why: str, text: bytes) -> None:
        exchange = self._exchange
        exchange.sink = None
        exchange.cause = NO_ROOM
        exchange.trouble = Trouble(why)
        if self._paused:  # what still comes is read and dropped, or the client would not see the answer
            exchange.stream.resume_body()
        if not exchange.answered:  # reading on may have found that the body is no body
            exchange.error(503, text, RETRY_AFTER)

    # -- the client ----------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """The exchange closes the body. What still comes of it after an answer is dropped by who ends the connection (net/linger.py)."""

    def client_drained(self) -> None:
        """Nothing is being sent to the client yet."""

    def client_full(self) -> None:
        """Nothing is being sent to the client yet."""
