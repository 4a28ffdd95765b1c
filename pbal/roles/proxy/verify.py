"""The question that a new connection is asked before a request is sent on it: OPTIONS, and whether there is an answer.

A kernel accepts connections for a node whose workers are all busy, or stuck. An answer means that a worker has this connection: it
has attention. Any status will do, 501 included; what it has to allow is that the connection stays open, or the question would have
used it up. A node that does not allow it is not asked again for a while (Dialer.unasked).

The answer is read and dropped, and bounded in size. What the node says after it, before it is asked anything, closes the connection
as it does for every bored one. Source: Perlbal manual, verify_backend. differs: HTTP/1.1 with Host, where Perlbal asks in HTTP/1.0.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from pbal.http1.encoder import render_fields
from pbal.http1.events import END, BadResponse, EndOfBody, ResponseHead
from pbal.net import backend as link
from pbal.net.backend import Attendant, BackendConnection

if TYPE_CHECKING:
    from pbal.roles.proxy.terms import Terms

MOST_OF_AN_ANSWER: Final = 65536
"""Octets of a body that are read and dropped. It is the answer to OPTIONS: most have none."""


class NotKept(Exception):
    """The node answered, and will not keep the connection open."""


class Verification(Attendant):
    """One connection that is being verified. `ready` tells of the end."""

    __slots__ = ("backend", "ready", "size")

    def __init__(self, backend: BackendConnection, terms: "Terms") -> None:
        self.backend = backend
        self.size = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the node has answered; raises NotKept, or OSError where it gave no usable answer."""
        backend.relay = self
        backend.state = link.VERIFYING
        backend.reader.expect(b"OPTIONS")
        backend.write(question(terms, backend))

    def backend_readable(self) -> None:
        """See Attendant."""
        reader = self.backend.reader
        reader.begin_turn()
        try:
            while not self.ready.done():
                event = reader.next()
                if event is None:
                    if reader.tired:
                        raise BadResponse("it comes in too many pieces")
                    return
                self._read(event)
        except BadResponse as error:
            self._ended(ConnectionError(f"bad answer to OPTIONS: {error.reason}"))

    def _read(self, event: ResponseHead | bytes | EndOfBody) -> None:
        """A part of the answer. Raises: BadResponse."""
        if event is END:
            self._answered()
        elif isinstance(event, bytes):
            self.size += len(event)
            if self.size > MOST_OF_AN_ANSWER:
                raise BadResponse("it is too long")
        elif isinstance(event, ResponseHead) and event.status >= 200:
            if not self.backend.reader.keep_alive or self.backend.reader.must_close:
                self._ended(NotKept())
            elif event.framing == 0:
                self._answered()

    def _answered(self) -> None:
        """The answer is there whole."""
        if self.backend.reader.leftover:
            self._ended(ConnectionError("it said more than the answer to OPTIONS"))
        elif not self.ready.done():
            self.backend.relay = None
            self.ready.set_result(None)

    def _ended(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)

    def forget(self) -> None:
        """Nobody waits for `ready` any more."""
        if not self.ready.cancel() and not self.ready.cancelled():
            self.ready.exception()  # else the loop complains that nobody heard of it

    def backend_eof(self) -> None:
        """See Attendant."""
        self._ended(ConnectionError("it closed the connection and did not answer OPTIONS"))

    def backend_lost(self, exc: Exception | None) -> None:
        """See Attendant."""
        self._ended(ConnectionError(f"it did not answer OPTIONS: {exc or 'connection closed'}"))

    def backend_expired(self) -> None:
        """See Attendant. The coroutine that connects has the timer."""


def question(terms: "Terms", backend: BackendConnection) -> bytes:
    """The request: Host and Via, and what HEADER statements say of all requests that go to nodes."""
    service = terms.service
    rules = service.rules.request
    fields: list[tuple[bytes, bytes]] = [] if rules is None else rules.always.fields([])
    more = b"" if any(name.lower() == b"host" for name, _ in fields) else b"Host: %b\r\n" % backend.node.authority.encode()
    return b"OPTIONS %b HTTP/1.1\r\n%bConnection: keep-alive\r\n%bVia: 1.1 %b\r\n\r\n" % (
        str(service.values["verify_backend_path"]).encode(), more, render_fields(fields), terms.via,
    )  # fmt: skip
