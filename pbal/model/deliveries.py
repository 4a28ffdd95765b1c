"""Answers that may not be lost, from their writing until the peer's TCP has acknowledged them: delivered means acknowledged.

    fresh     written in this tick or the one before; nobody has looked yet
    waiting   not acknowledged when looked at; looked at in each tick, and TCP_USER_TIMEOUT runs for it
    held      acknowledged; kept for HOLD ticks, since a close with unread data is a reset (RFC 9293 section 3.10.4, as Linux does it)
    gone      taken, or told lost

An answer is taken when it was held for so long, when a next request comes behind it, or when the peer's end comes and it is
acknowledged. Whoever has read it and resets within a second looks like one who did not, and may get it twice. An answer is lost with a
connection that is reset, times out or is closed by us while it is not acknowledged. Of several on one connection the newest is told
first, so that who puts each in front of a queue has them in order.

One timer runs for all, TICKS times a second and only while there is something to look at. A look is one system call (SIOCOUTQ: octets
written that are not acknowledged) for a connection, however many answers it owes. It comes a whole tick after the writing: most
clients have asked for more by then, and cost none. A_TURN bounds what one turn of the loop does of it.

Answers are kept in a chain for each connection, newest first, by transport: a connection that hands its socket on (net/linger.py) hands
on nothing else. Octets are counted behind each answer, so that a busy stream's old answers are acknowledged while newer ones are not.

TCP_USER_TIMEOUT is set only while an answer waits: set for good, it kills a reader that merely pauses. Under TLS the transport is that of
net/tls.py, and the look goes through to its socket. It proves that the peer's kernel took the records, no more; and behind another proxy,
that the proxy did. Where the system has no SIOCOUTQ, what our own socket took counts.
"""

import asyncio
import contextlib
import fcntl
import socket
import termios
from array import array
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pbal.model.faults import call_back

if TYPE_CHECKING:
    from pbal.model.world import World

OnLost = Callable[[], None]

PATIENCE: Final = 30.0
"""Seconds in which a peer has to acknowledge an answer, unless who answers says otherwise."""
TICKS: Final = 4
HOLD: Final = TICKS
A_TURN: Final = 1000
"""Steps of work in one turn of the loop, about half a millisecond."""
A_LOOK: Final = 4
"""Steps that a look costs."""

_OUTQ: Final = getattr(termios, "TIOCOUTQ", None)  # the number of SIOCOUTQ, which Python does not name: linux/sockios.h
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)

HELD: Final = -1
"""What `looked` is once it is acknowledged."""

_octets: Final = array("i", [0])
"""Where the kernel puts its answer: a call that writes into it takes half the time of one that makes an object."""


class Delivery:
    """An answer that may not be lost. It is gone when `on_lost` is None, and with it all that are older."""

    __slots__ = ("after", "looked", "older", "on_lost", "patience", "size", "transport")

    def __init__(self, transport: asyncio.WriteTransport, size: int, on_lost: OnLost, patience: float, older: "Delivery | None") -> None:
        self.transport: asyncio.WriteTransport | None = transport
        self.size = size
        self.after = 0
        """Octets written behind it, before the next one."""
        self.on_lost: OnLost | None = on_lost
        self.patience = patience
        self.older = older
        self.looked = 0
        """The tick of the last look; 0 before it."""


def unacknowledged(transport: asyncio.WriteTransport) -> int:
    """Octets written that the peer has not acknowledged; -1 where the socket is closed already. One system call.

    A FIN of ours counts as an octet until it is acknowledged.
    """
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor < 0:
        return -1
    waiting = transport.get_write_buffer_size()
    if _OUTQ is None:
        return waiting
    try:
        fcntl.ioctl(descriptor, _OUTQ, _octets)
    except OSError:  # a system that has the number, and not the call for sockets
        return waiting
    return waiting + _octets[0]


class Deliveries:
    """Those of one server."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._counts: dict[str, int] = world.counters.counts
        self._newest: dict[asyncio.WriteTransport, Delivery] = {}
        self._fresh: list[Delivery] = []
        self._ripe: list[Delivery] = []
        self._waiting: list[Delivery] = []
        self._holding: list[Delivery] = []
        """Those found acknowledged in this tick."""
        self._held: deque[list[Delivery]] = deque()
        """Those of the ticks before."""
        self._todo: deque[Delivery] = deque()
        self._over: deque[Delivery] = deque()
        self._limited: set[asyncio.WriteTransport] = set()
        """Those whose TCP_USER_TIMEOUT runs."""
        self._tick = 0
        self._timer: asyncio.Handle | None = None

    # -- what connections say ------------------------------------------------------------------------------------

    def add(self, transport: asyncio.WriteTransport, size: int, on_lost: OnLost, patience: float) -> None:
        """An answer of `size` octets was written. `patience`: seconds, 0 is the system's own."""
        delivery = Delivery(transport, size, on_lost, patience, self._newest.get(transport))
        self._newest[transport] = delivery
        self._fresh.append(delivery)
        self._counts["answers_unacknowledged"] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1 / TICKS, self._begin)

    def wrote(self, transport: asyncio.WriteTransport, size: int) -> None:
        """Other octets were written behind an answer."""
        newest = self._newest.get(transport)
        if newest is not None:
            newest.after += size

    def owes(self, transport: asyncio.WriteTransport) -> bool:
        """Whether an answer to this peer may still be lost."""
        return transport in self._newest

    def patience(self, transport: asyncio.WriteTransport) -> float:
        """Seconds that the peer has to acknowledge the last answer."""
        newest = self._newest.get(transport)
        return PATIENCE if newest is None else newest.patience

    def taken(self, transport: asyncio.WriteTransport) -> None:
        """The peer has asked for more."""
        newest = self._newest.pop(transport, None)
        if newest is not None:
            self._forget(newest)
            if self._limited:
                self._set_limit(transport, 0)

    def settle(self, transport: asyncio.WriteTransport) -> bool:
        """Look now, since the connection ends: what is acknowledged is taken. Returns True if nothing is left."""
        newest = self._newest.get(transport)
        if newest is None:
            return True
        self._look(transport, newest)
        if newest.looked == HELD:
            self.taken(transport)
            return True
        oldest = newest
        while (older := oldest.older) is not None and older.looked != HELD:
            oldest = older
        if oldest.older is not None:
            self._forget(oldest.older)
            oldest.older = None
        return False

    def broken(self, transport: asyncio.WriteTransport) -> int:
        """The connection has ended, and what is left of its answers is lost. How many they were."""
        newest = self._newest.pop(transport, None)
        if newest is None:
            return 0
        lost: list[OnLost] = []
        delivery: Delivery | None = newest
        while delivery is not None and (on_lost := delivery.on_lost) is not None:
            lost.append(on_lost)
            delivery = delivery.older
        self._forget(newest)
        self._limited.discard(transport)
        self._counts["answers_lost"] += len(lost)
        for call in lost:
            call_back(self._world, call)
        return len(lost)

    def give_up(self) -> int:
        """The server ends, and plugins are still open: what is not acknowledged now is lost. How many they were."""
        number = 0
        for transport in list(self._newest):
            if not self.settle(transport):
                number += self.broken(transport)
        return number

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    # -- looking -------------------------------------------------------------------------------------------------

    def _forget(self, delivery: Delivery | None) -> None:
        """This and all that are older are gone."""
        known = 0
        while delivery is not None and delivery.on_lost is not None:
            if delivery.looked != HELD:
                known += 1
            older = delivery.older
            delivery.on_lost = delivery.older = delivery.transport = None
            delivery = older
        self._counts["answers_unacknowledged"] -= known

    def _look(self, transport: asyncio.WriteTransport, newest: Delivery) -> None:
        """Ask the socket, and hold what is acknowledged."""
        waiting = unacknowledged(transport)
        if waiting < 0:
            return  # connection_lost is on its way
        behind = 0
        delivery: Delivery | None = newest
        while delivery is not None and delivery.on_lost is not None and delivery.looked != HELD:
            delivery.looked = self._tick
            behind += delivery.after
            if waiting <= behind:
                self._hold(delivery)
                if delivery is newest and self._limited:
                    self._set_limit(transport, 0)
                return
            behind += delivery.size
            delivery = delivery.older

    def _hold(self, delivery: Delivery | None) -> None:
        """This and all that are older are acknowledged."""
        while delivery is not None and delivery.on_lost is not None and delivery.looked != HELD:
            delivery.looked = HELD
            self._holding.append(delivery)
            self._counts["answers_unacknowledged"] -= 1
            delivery = delivery.older

    def _set_limit(self, transport: asyncio.WriteTransport, seconds: float) -> None:
        """Have the kernel break the connection if nothing is acknowledged for so long; 0: no more."""
        if seconds and transport not in self._limited:
            self._limited.add(transport)
        elif not seconds and transport in self._limited:
            self._limited.discard(transport)
        else:
            return
        sock = transport.get_extra_info("socket")
        if _USER_TIMEOUT is not None and sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):  # it broke, and connection_lost is on its way
                sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(min(seconds, 1e6) * 1000))

    # -- the tick ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._tick += 1
        if len(self._held) >= HOLD:
            self._over.extend(self._held.popleft())
        self._todo.extend(self._waiting)
        self._todo.extend(self._ripe)
        self._ripe, self._fresh, self._waiting = self._fresh, [], []
        self._work()

    def _work(self) -> None:
        """What is to do in this tick, as far as one turn of the loop goes."""
        left = A_TURN
        over, todo = self._over, self._todo
        while over and left > 0:
            left -= 1
            self._expire(over.popleft())
        while todo and left > 0:
            left -= 1
            delivery = todo.popleft()
            transport = delivery.transport
            if transport is None or delivery.looked == HELD:
                continue
            if delivery.looked != self._tick:
                left -= A_LOOK
                self._look(transport, self._newest[transport])
                if delivery.looked == HELD:
                    continue
            self._waiting.append(delivery)
            self._set_limit(transport, delivery.patience)
        loop = asyncio.get_running_loop()
        if over or todo:
            self._timer = loop.call_soon(self._work)
            return
        self._held.append(self._holding)
        self._holding = []
        if self._newest:
            self._timer = loop.call_later(1 / TICKS, self._begin)
        else:
            self._timer = None
            for waiting in (self._fresh, self._ripe, self._waiting):
                waiting.clear()
            self._held.clear()

    def _expire(self, delivery: Delivery) -> None:
        """It was held for long enough."""
        transport = delivery.transport
        if transport is None:
            return
        if self._newest[transport] is delivery:
            self.taken(transport)
        else:
            self._forget(delivery)
