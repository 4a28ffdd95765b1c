"""How a response is read from a connection to a node, or to another server, whoever it is for.

A turn of the loop reads what has come: heads go to `_head` one by one, the octets of the body to `_pass_on` in one piece, the end to
`_complete`. What comes in very many pieces is read in several turns (Reader.tired): the connection rests meanwhile. A connection whose
client is full is not read, and has no deadline: it waits for us.

Every call out of the loop may part with the connection. Whoever reads looks after each whether it is its own still.
"""

import asyncio
from abc import abstractmethod
from math import inf

from pbal.http1.events import END, BadResponse, ResponseHead
from pbal.net import backend as link
from pbal.net.backend import Attendant, BackendConnection


class Reading(Attendant):
    """Who reads a response."""

    backend: BackendConnection | None
    """The connection that it comes on; None while there is none, and when it is over."""
    heard: bool
    """Whether an octet of an answer came."""
    resting: bool
    """Whether the rest of what the node sent is read in the next turn of the loop."""

    @abstractmethod
    def _head(self, head: ResponseHead) -> bool:
        """A head has come, be it 1xx, 101 or the last. True when the response ends with it. Raises: BadResponse."""

    @abstractmethod
    def _pass_on(self, out: list[bytes]) -> None:
        """Octets of the body that came in this turn; there may be none."""

    @abstractmethod
    def _complete(self, out: list[bytes]) -> None:
        """The response is there whole, with the last octets of its body. The connection is to be given back."""

    @abstractmethod
    def _garbled(self, backend: BackendConnection, error: BadResponse) -> None:
        """What came is no response."""

    @abstractmethod
    def _lost(self, reason: str) -> None:
        """The connection ended before the response was whole."""

    @abstractmethod
    def _extend(self, backend: BackendConnection) -> None:
        """The node showed life, or has to wait for us: its time starts anew."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether whoever gets the body takes no more for now."""

    def backend_readable(self) -> None:
        """Octets arrived: pass on what is complete, in one write."""
        backend = self.backend
        if backend is None or self.resting:
            return
        self.heard = True
        reader = backend.reader
        reader.begin_turn()
        out: list[bytes] = []
        try:
            while True:
                event = reader.next()
                if event is None:
                    break
                if event is END:
                    self._complete(out)
                    return
                if isinstance(event, bytes):
                    out.append(event)
                    continue
                assert isinstance(event, ResponseHead)
                ended = self._head(event)
                if ended:
                    self._complete(out)
                if ended or not self._has(backend):
                    return
        except BadResponse as error:
            self._pass_on(out)
            self._garbled(backend, error)
            return
        self._pass_on(out)
        if self._has(backend):
            self._end_turn(backend)

    def _end_turn(self, backend: BackendConnection) -> None:
        """What may be read in this turn was. A node that brings its head drop by drop gets no more time for it."""
        if backend.reader.tired:
            self.resting = True
            backend.pause()
            asyncio.get_running_loop().call_soon(self._after_rest, backend)
        elif backend.state is link.XFER_RES:
            self._extend(backend)

    def _after_rest(self, backend: BackendConnection) -> None:
        """Another turn of the loop: read on."""
        if not self._has(backend):  # given back; who took it now is not the one that was full
            backend.resume()
            return
        self.resting = False
        if not self.full:
            backend.resume()
        self.backend_readable()
        if not self._has(backend):  # as above
            backend.resume()

    def _has(self, backend: BackendConnection) -> bool:
        """Whether this is the connection still. A call, since what a compiler knows of an attribute must not outlast one."""
        return self.backend is backend

    def client_full(self) -> None:
        """The client takes slower than the node sends: stop the node."""
        backend = self.backend
        if backend is not None and backend.state is not link.CLOSED:
            backend.pause()
            backend.deadline = inf

    def client_drained(self) -> None:
        """The client took what was waiting."""
        backend = self.backend
        if backend is not None and not backend.closing:
            self._extend(backend)
            if not self.resting:
                backend.resume()

    def backend_eof(self) -> None:
        """The node will send no more."""
        backend = self.backend
        if backend is None:
            return
        why = backend.cut_off()
        if why:
            self._lost(why)
        else:
            self.backend_readable()

    def backend_lost(self, exc: Exception | None) -> None:
        """The connection broke, or closed after its end was seen."""
        if self.backend is not None:
            self._lost(str(exc) if exc else "connection closed")

    def backend_now(self) -> BackendConnection | None:
        """See Attendant."""
        return self.backend
