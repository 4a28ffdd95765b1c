"""A connection of a role that a plugin brings (model/conversation.py): the socket's side of it.

    open     the conversation has it; silent for idle_timeout, or as long without taking any of what is written, it is closed
    full     the peer takes less than is written: nothing more is read until it has
    closing  what was written goes out, nothing is read
    closed   gone() was called, once

The end of the peer is not the end of the connection: the conversation says when it has nothing more to say.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final, cast

from pbal.model.conversation import Conversation, Wire
from pbal.model.faults import CAUGHT, report
from pbal.model.service import Service
from pbal.net.linger import class_of, described, peer_name
from pbal.observe.sockets import Kind, SocketInfo

OPEN: Final = "open"
FULL: Final = "full"
CLOSING: Final = "closing"
CLOSED: Final = "closed"


class Conversing(Wire, asyncio.Protocol):
    """See above."""

    def __init__(self, service: Service, plugin: str, make: type[Conversation]) -> None:
        self._service = service
        self._plugin = plugin
        self._make = make
        self._conversation: Conversation | None = None
        self._ended = False
        """Whether the peer has sent its last octet."""
        self.transport: asyncio.Transport | None = None
        self.state = OPEN
        self.deadline = inf
        self._left = 0
        """Octets that the peer had to take when something was written, or when it was looked at last."""
        self.born: int = service.world.second
        self.requests = 0

    # -- the socket ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        world = self._service.world
        world.joined(self)
        counts = world.counters.counts
        counts["connections"] += 1
        counts["clients"] += 1
        if len(world.clients) + len(world.backends) + len(world.bodies.spools) > world.room and world.runtime is not None:
            world.runtime.out_of_room()
        self.transport.set_write_buffer_limits(high=self._service.values["buffer_size"])
        self._heard()
        self._call("__init__", self._begin)

    def _begin(self) -> None:
        self._conversation = self._make(self._service, self)
        self._conversation.begin()

    def data_received(self, data: bytes) -> None:
        self._heard()
        conversation = self._conversation
        if conversation is not None and self.state in (OPEN, FULL):
            self._call("received", lambda: conversation.received(data))

    def eof_received(self) -> bool:
        self._ended = True
        conversation = self._conversation
        if conversation is not None and self.state in (OPEN, FULL):
            self._call("ended", conversation.ended)
        return True

    def pause_writing(self) -> None:
        if self.state is OPEN and self.transport is not None:
            self.state = FULL
            if not self._ended:
                self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._heard()
        if self.state is FULL and self.transport is not None:
            self.state = OPEN
            if not self._ended:
                self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        world = self._service.world
        world.clients.discard(self)
        world.counters.counts["clients"] -= 1
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            self._call("gone", conversation.gone)

    def _heard(self) -> None:
        """It is not silent."""
        self.deadline = self._service.world.clock.now() + (self._service.values["idle_timeout"] or inf)

    def _call(self, what: str, call: Callable[[], None]) -> None:
        """Call the plugin's class; what it raises ends the connection."""
        try:
            call()
        except CAUGHT as error:
            report(self._service.world, self._plugin, f"{self._make.__name__}.{what}()", error)
            if self.transport is not None and self.state is not CLOSED:
                self.transport.abort()

    # -- Wire ------------------------------------------------------------------------------------------------------

    @property
    def peer_name(self) -> str:
        """See Wire."""
        return peer_name(self.transport)

    @property
    def unsent(self) -> int:
        """See Wire."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """See Wire."""
        if self.state in (OPEN, FULL) and self.transport is not None:
            self._heard()
            self.transport.write(data)
            self._left = self.unsent

    def close(self) -> None:
        """See Wire."""
        if self.state in (OPEN, FULL) and self.transport is not None:
            self.state = CLOSING
            self.transport.close()

    # -- what the server does with whatever is in World.clients ------------------------------------------------------

    @property
    def home(self) -> Service:
        """The listener's service."""
        return self._service

    def expired(self, now: float) -> None:
        """Silent for too long, or the peer takes nothing. One that takes slowly what there is has more time."""
        left = self.unsent
        if 0 < left < self._left:
            self._left = left
            self._heard()
            return
        self.deadline = inf
        if self.transport is not None:
            self.transport.abort()

    def shutdown(self, graceful: bool) -> None:
        """The server ends."""
        if graceful:
            self.close()
        elif self.transport is not None:
            self.transport.abort()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return class_of(self._service), self.state, self._service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        return described(self._service, self.transport, self.state, self.born, {}, "R" if self.state is OPEN else "W")
