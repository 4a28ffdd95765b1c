"""What ten thousand clients do at one moment, a few of them in a turn of the loop.

When a network breaks, a room closes or a server comes back, a thousand ends or requests come in one look at the sockets, and nothing
that is written goes out before the last of them is served. So a connection whose peer has left only says so, and is
closed when its turn comes; and after SLICE requests the next ones wait for a turn. Who was served before goes before who comes
for the first time: a crowd that arrives does not hold up those who are there. Some newcomers are served in each turn, whatever comes.

Where few come at once this costs an addition each: `begun` counts on over the turns, and only the request that finds it full asks for
the next turn, which empties it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE: Final = 32
"""Requests begun, or connections closed, in one turn: about one millisecond."""
NEWCOMERS: Final = 8
"""How many of the requests are of newcomers, if so many wait."""
HANDSHAKES: Final = 4
"""Steps of handshakes of TLS in one turn: one that signs costs half a millisecond."""

PRESSED: Final = 131072
"""Octets compressed in one turn, of all clients together: 2 to 5 ms."""

Call = Callable[[], None]


class Pace:
    """That of one server."""

    def __init__(self) -> None:
        self._known: deque[Call] = deque()
        self._new: deque[Call] = deque()
        self._leaving: deque[Call] = deque()
        self._shaking: deque[Call] = deque()
        self._pressing: deque[Call] = deque()
        self.pressed = 0
        """Octets compressed since a turn was last asked for. Above PRESSED: wait."""
        self._scheduled = False
        self._shaken = 0
        """Steps of handshakes since a turn was last asked for. Above HANDSHAKES: wait."""
        self.begun = 0
        """Requests begun without waiting, since a turn was last asked for. Above SLICE: wait."""

    def wait(self, begin: Call, known: bool) -> None:
        """Begin a request when its turn comes. `known`: the connection had one before."""
        (self._known if known else self._new).append(begin)
        self._schedule()

    def leave(self, close: Call) -> None:
        """Close a connection when its turn comes."""
        self._leaving.append(close)
        self._schedule()

    def shake(self, step: Call) -> None:
        """Go on with a handshake of TLS: now, or when its turn comes."""
        self._shaken += 1
        if self._shaken <= HANDSHAKES:
            step()
            return
        self._shaking.append(step)
        self._schedule()

    def press(self, step: Call) -> None:
        """Go on with compressing when its turn comes."""
        self._pressing.append(step)
        self._schedule()

    def decrypt(self, step: Call) -> None:
        """Go on with what a client under TLS sent, when its turn comes: it had one in this turn of the loop."""
        self._shaking.append(step)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        known, new, leaving, shaking, pressing = self._known, self._new, self._leaving, self._shaking, self._pressing
        self.begun = SLICE  # who is begun in the middle of this stands behind
        try:
            if known or new:
                left = SLICE - _some(known, SLICE - min(NEWCOMERS, len(new)))
                _some(new, left)
            _some(leaving, SLICE)
            _some(shaking, HANDSHAKES)
            self.pressed = 0
            for _ in range(len(pressing)):
                if self.pressed >= PRESSED:
                    break
                pressing.popleft()()
        finally:  # one that fails ends no other's turn
            if not known and not new:
                self.begun = 0
            if not shaking:
                self._shaken = 0
            if known or new or leaving or shaking or pressing:
                self._schedule()


def _some(waiting: deque[Call], most: int) -> int:
    """Carry out at most so many; how many it were."""
    number = min(most, len(waiting))
    for _ in range(number):
        waiting.popleft()()
    return number


class Rate:
    """At most so many handshakes a second, in the order of their coming. Who left meanwhile takes nobody's place."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._waiting: deque[Callable[[], bool]] = deque()
        self._credit = 0.0
        self._since = now()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: Callable[[], bool], limit: int) -> None:
        """Call this now, or when its time comes; it returns whether somebody was still there. `limit`: a second; 0 is none."""
        if limit and (self._waiting or not self._granted(limit)):
            self._waiting.append(call)
            self._arm(limit)
        else:
            call()

    def _granted(self, limit: int) -> bool:
        now = self._now()
        most = max(1.0, limit / 10)
        self._credit = min(most, self._credit + (now - self._since) * limit)
        self._since = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _arm(self, limit: int) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(1 / limit, 0.005), self._go_on, limit)

    def _go_on(self, limit: int) -> None:
        self._timer = None
        while self._waiting and self._granted(limit):
            if not self._waiting.popleft()():
                self._credit += 1
        if self._waiting:
            self._arm(limit)
