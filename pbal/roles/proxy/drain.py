"""The rest of a response that nobody wants: read, if it is short, so that its connection serves others. That of a long one is closed.

A Drain has the connection from where its relay parted with it, until it is given back or closed. No client is behind it.
"""

from typing import Final

from pbal.http1.events import END, BadResponse
from pbal.net.backend import Attendant, BackendConnection
from pbal.roles.proxy.backends import Backends

DRAINED: Final = 65536
"""Octets of an unwanted response that are read for the sake of the connection; making another costs less than reading more."""
DRAIN_TIME: Final = 5.0
"""Seconds for that."""


class Drain(Attendant):
    """See above."""

    __slots__ = ("backend", "group", "size")

    def __init__(self, group: Backends, backend: BackendConnection) -> None:
        self.group = group
        self.backend = backend
        self.size = 0
        backend.relay = self
        backend.deadline = group.clock.now() + DRAIN_TIME

    def backend_readable(self) -> None:
        """See Attendant."""
        backend = self.backend
        backend.reader.begin_turn()
        try:
            while self.size <= DRAINED:
                event = backend.reader.next()
                if event is None and not backend.reader.tired:
                    return
                if event is END:
                    backend.relay = None
                    self.group.release(backend, True)
                    return
                if not isinstance(event, bytes):
                    break
                self.size += len(event)
        except BadResponse as error:
            backend.node.failed(self.group.clock.now(), error.reason)
        self.backend_expired()

    def backend_eof(self) -> None:
        """See Attendant."""
        self.backend_expired()

    def backend_lost(self, exc: Exception | None) -> None:
        """See Attendant."""
        self.backend.node.pool.released(self.backend.node)

    def backend_expired(self) -> None:
        """See Attendant."""
        self.backend.node.pool.released(self.backend.node)
        self.backend.abort()
