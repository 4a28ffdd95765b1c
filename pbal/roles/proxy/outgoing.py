"""A request's body on its way to a node: what is held of it, and then what the client goes on sending.

    held whole      in memory: with the head, in one write or two;  on disk: pumped (pump.py)
    held in part    what is held, and then what comes
    not held        what comes

The node waits for us while the body is on its way, so its time begins with the end of it. A node that takes slower than the client sends
has the client paused, or the pump. Once octets went out that are not held, the request cannot be sent again.
"""

from abc import abstractmethod
from math import inf
from typing import Final

from pbal.http1.encoder import chunk, last_chunk
from pbal.http1.events import CHUNKED
from pbal.model.collected import CollectedBody
from pbal.model.exchange import Stream
from pbal.net.backend import BackendConnection
from pbal.observe.recent import Trouble
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.pump import Pump
from pbal.roles.proxy.request import trailer_octets
from pbal.roles.proxy.terms import Terms

JOINED: Final = 65536
"""Octets of a body that go out in one write with the head: to copy more costs more than another write."""


class Outgoing(Undecided):
    """A request that is sent."""

    terms: Terms
    stream: Stream
    held: CollectedBody | None
    """The request's body, whole, or what came of it before a node was sought."""
    pump: Pump | None
    """Brings a held body from the disk, while it does."""
    body_sent: bool
    """Whether octets of the body went out; of one that is held in part, octets that are not held."""
    chunked_up: bool
    """Whether what comes goes out in chunks."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether it is over: what comes of the body is of no use."""

    @abstractmethod
    def _failed(self, status: int) -> None:
        """There will be no usable response."""

    def _send_body(self, backend: BackendConnection, head: bytes) -> None:
        """Send the head, what is held of the body, and then what the client goes on sending."""
        held = self.held
        self.chunked_up = self.exchange.request.framing == CHUNKED and (held is None or not held.whole or self._keeps_chunks(held))
        if held is None:
            backend.write(head)
        elif held.spooled:
            backend.write(head + b"%x\r\n" % held.size if self.chunked_up else head)  # all of it is one chunk
            self.body_sent = True
            self.pump = Pump(held, backend, self._pumped, self._unreadable)
            self.pump.go_on()
            return
        else:
            octets = b"".join(held.parts)
            if self.chunked_up and octets:
                octets = chunk(octets)
            if self.chunked_up and held.whole:
                octets += last_chunk(trailer_octets(self.exchange))
            if len(octets) <= JOINED:
                backend.write(head + octets)
            else:
                backend.write(head)
                backend.write(octets)
            if held.whole:
                self.body_sent = True
                return
        if self.chunked_up and self.exchange.body_complete:  # sent again: nothing of it came, but for what is held
            self.body_end()
        else:
            if self.exchange.request.expect_continue and b"\nexpect:" not in head.lower():  # a rule or a plugin keeps that from the node
                self.stream.continue_body()
            self.stream.resume_body()

    def _keeps_chunks(self, held: CollectedBody) -> bool:
        """Whether a body that is held whole goes out in chunks all the same: it has trailers."""
        return held.whole and bool(self.exchange.trailer)

    def _pumped(self, all_out: bool) -> None:
        """A piece of a body from the disk went out."""
        if all_out:
            self.pump = None
            if self.chunked_up and self.backend is not None:
                self.backend.write(b"\r\n" + last_chunk(trailer_octets(self.exchange)))
        if self.backend is not None:
            self._extend(self.backend)

    def _unreadable(self, error: Exception) -> None:
        """The disk does not give the body back."""
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        self.terms.service.world.log_limited(
            f"spool {self.terms.name}",
            "service %(service)s: cannot read a request body from disk: %(reason)s",
            {"event": "spool_failed", "service": self.terms.name, "reason": reason},
        )
        self.exchange.trouble = Trouble(f"cannot read its body from disk: {reason}")
        self._failed(500)

    def _stop_pump(self) -> None:
        if self.pump is not None:
            self.pump.stop()
            self.pump = None

    # Sink: the client's body comes in.

    def body_data(self, data: bytes) -> None:
        """Octets of the request body, streamed."""
        backend = self.backend
        if self.done:
            return  # answered already: the rest is read and dropped
        if backend is None:
            raise RuntimeError("body octets while no backend is assigned: pause_body was not honoured")
        if not self.body_sent:
            self.body_sent = True
            if self.held is not None:  # what was held went out before, and cannot be sent again without the rest
                self.held.close()
        backend.write(chunk(data) if self.chunked_up else data)

    def body_end(self) -> None:
        """The request body is complete."""
        backend = self.backend
        if backend is None or self.done:
            return
        if self.chunked_up:
            backend.write(last_chunk(trailer_octets(self.exchange)))
        self._extend(backend)

    def backend_full(self) -> None:
        """The backend takes slower than the client sends."""
        if self.backend is not None:
            self._extend(self.backend)
        if self.pump is None:
            self.stream.pause_body()

    def backend_drained(self) -> None:
        """The backend took what was waiting."""
        if self.backend is not None:
            if self.exchange.body_complete:
                self._extend(self.backend)
            else:
                self.backend.deadline = inf
        if self.pump is not None:
            self.pump.go_on()
        else:
            self.stream.resume_body()
