"""memcached that pushes: a connection that said `watch mutations`, and a heartbeat that keeps it awake.

memcached (1.6.18 measured) writes a line for every store into the stream, but its log thread sleeps longer the quieter the
server is: 290 ms median on an idle one. A tiny key of our own, stored every BEAT, keeps it awake (2 ms) and proves
by coming back that the stream lives. None seen for STALE: the stream is not trusted, and the sweep is alone until it is back.

The stream may drop lines, and says `skipped=N` when it knows. So what is read here is a hint: it can only make a
take earlier, never unnecessary. It shows everybody's keys; the wanted prefix is searched in the octets as they come,
before any line is split.

A watcher lives only while polls are parked. At most 20 watchers fit on a server, and hosted ones may refuse: that is said, and
retried as seldom as REFUSED_PAUSE. A server that has no connection left is no refusal: it may have one in a moment.

What counts as a line about our queues: a store that was done, whatever the verb, under the prefix; not the heartbeats of other
pbals, which lie there too. Our own heart counts whatever came of its store: a full server says no, and says so in the stream.
"""

import asyncio
import os
import re
from collections.abc import Callable
from typing import cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pbal.api import spawn

from .memcached import Place, authentication, connect, meaning

BEAT = 0.02
STALE = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
REFUSED_PAUSE = 60.0
_WATCH = b"watch mutations\r\n"
LONGEST_TAIL = 4096
"""Octets of an unfinished line kept; a key has 250 at most, percent-coded 750."""


class _Stream(asyncio.Protocol):
    """The watching connection. It speaks to its watcher as long as the attempt it belongs to is the watcher's."""

    def __init__(self, watcher: "Watcher") -> None:
        self._watcher = watcher
        self._attempt = watcher.attempt
        self._transport: asyncio.Transport
        self._tail = b""
        self._awaited = [b"STORED", b"OK"] if watcher.secret is not None else [b"OK"]
        """What the server says before the stream begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        secret = self._watcher.secret
        self._transport.write(_WATCH if secret is None else authentication(secret))

    def data_received(self, data: bytes) -> None:
        watcher = self._watcher
        if self._attempt != watcher.attempt:
            return
        data = self._tail + data
        while self._awaited:
            line, found, data = data.partition(b"\n")
            if not found:
                self._tail = line[:LONGEST_TAIL]
                return
            if line.rstrip(b"\r") != self._awaited.pop(0):
                watcher.refused(line.rstrip(b"\r"))
                return
            if self._awaited:
                self._transport.write(_WATCH)  # only now: memcached takes no `watch` that comes with other commands
        end = data.rfind(b"\n") + 1
        self._tail = data[end:][-LONGEST_TAIL:]
        watcher.lines(data[:end])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._attempt == self._watcher.attempt:
            self._watcher.lost("the stream ended")


class _Beat(asyncio.Protocol):
    """The connection the heartbeat is stored through. Its answers are not asked for (noreply)."""

    def __init__(self, watcher: "Watcher") -> None:
        self._watcher = watcher
        self._attempt = watcher.attempt

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._watcher.secret is not None:
            cast(asyncio.Transport, transport).write(authentication(self._watcher.secret))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._attempt == self._watcher.attempt:
            self._watcher.lost("the heartbeat's connection ended")


class Watcher:
    """Follows one server while told to. `state` is off, connecting, live, stale or refused."""

    def __init__(
        self, place: Place, prefix: bytes, now: Callable[[], float], stored: Callable[[bytes], None], distrust: Callable[[str], None],
        say: Callable[..., None], secret: bytes | None = None,
    ) -> None:  # fmt: skip
        """`stored(key)` is called for each key with the prefix; `distrust(why)` when a sweep is due at once.

        `say`: World.log_limited. `secret`: see memcached.authentication().
        """
        self._place = place
        self._now = now
        self._stored = stored
        self._distrust = distrust
        self._say = say
        self.secret = secret
        self.state = "off"
        self.lag = 0.0
        """Seconds from a heartbeat's store to its line, last seen."""
        self.attempt = 0
        """Connections made before this one was begun; what belongs to an earlier attempt says nothing any more."""
        self.seen = 0
        self.skipped = 0
        own = b".pbal.%d.%b" % (os.getpid(), os.urandom(6).hex().encode())
        self._beat_command = b"set %b%b 0 60 1 noreply\r\nx\r\n" % (prefix, own)
        # memcached percent-codes some octets and not others; what is not coded in the stream is matched as it is.
        start = rb"key=(?:%b|%b)" % (re.escape(quote_from_bytes(prefix, safe="").encode()), re.escape(prefix))
        self._own_line = re.compile(start + re.escape(own) + rb" ")
        self._lines = re.compile(rb"(?<=key=)" + start[4:] + rb"(?!\.pbal\.[0-9]+\.[0-9a-f]{12} )\S*(?= status=stored )")
        self._streams: list[asyncio.Transport] = []
        self._beat_transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beat_sent = 0.0
        self._beat_waiting = False
        self._last_seen = 0.0
        self._pause = FIRST_PAUSE
        self._running = False
        self._said_lost = False

    # -- on and off ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow, from now until stop()."""
        if not self._running:
            self._running = True
            self._connect_soon(0.0)

    def stop(self) -> None:
        """Leave the server alone."""
        self._running = False
        self._disconnect("off")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disconnect(self, state: str) -> None:
        self.state = state
        self.attempt += 1
        streams, self._streams, self._beat_transport = self._streams, [], None
        for transport in streams:
            transport.abort()

    def _connect_soon(self, pause: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause, self._connect)

    def _connect(self) -> None:
        self._timer = None
        if self._running:
            self.state = "connecting"
            spawn(self, self._open(), f"watch {self._place}")

    async def _open(self) -> None:
        attempt = self.attempt
        try:
            async with asyncio.timeout(STALE * 4):
                beat = await self._open_one(attempt, lambda: _Beat(self))
                await self._open_one(attempt, lambda: _Stream(self))
        except (OSError, TimeoutError) as error:
            if attempt == self.attempt:
                self.lost(str(error) or "too slow")
            return
        if attempt == self.attempt:
            self._beat_transport = beat
            self._last_seen = self._now()
            self._beat_waiting = False
            self._beat()

    async def _open_one(self, attempt: int, factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        """One of the two connections, unless the attempt is over. Raises: OSError."""
        if attempt != self.attempt:
            raise ConnectionAbortedError
        transport = await connect(self._place, factory)
        if attempt != self.attempt:
            transport.abort()
            raise ConnectionAbortedError
        self._streams.append(transport)
        return transport

    # -- the heart -----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Store the key, look whether the last ones came back."""
        self._timer = None
        transport = self._beat_transport
        if transport is None or not self._running:
            return
        now = self._now()
        if now - self._last_seen > STALE:
            self.lost("no heartbeat came back")
            return
        if not self._beat_waiting:
            self._beat_sent, self._beat_waiting = now, True
        transport.write(self._beat_command)
        self._timer = asyncio.get_running_loop().call_later(BEAT, self._beat)

    def lines(self, data: bytes) -> None:
        """Whole lines of the stream."""
        if b"skipped=" in data:
            self.skipped += 1
            self._distrust("the stream skipped lines")
        if self._own_line.search(data):
            self._heard()
        for coded in self._lines.findall(data):
            self.seen += 1
            self._stored(unquote_to_bytes(coded))

    def _heard(self) -> None:
        now = self._now()
        self._last_seen = now
        if self._beat_waiting:
            self._beat_waiting = False
            self.lag = now - self._beat_sent
        if self.state != "live":
            self.state = "live"
            self._pause = FIRST_PAUSE
            if self._said_lost:
                self._said_lost = False
                self._say(f"watch on memcached {self._place} back", "watch on memcached %s is back", self._place)
            self._distrust("the stream is live")

    # -- trouble -------------------------------------------------------------------------------------------------

    def lost(self, why: str) -> None:
        """The stream or the heart stopped: sweep, and try again later."""
        if not self._running:
            return
        was_live = self.state == "live"
        self._disconnect("stale")
        if was_live:
            self._tell_lost(f"{why}; sweeping only until it is back")
            self._distrust(why)
        self._connect_soon(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _tell_lost(self, why: str) -> None:
        self._said_lost = True
        self._say(f"watch on memcached {self._place} lost", "watch on memcached %s: %s", self._place, why)

    def refused(self, answer: bytes) -> None:
        """The server does not let us watch: not now, or not at all."""
        if b"Too many open connections" in answer:
            self._tell_lost(meaning(answer))
            self.lost("no connection is left")
            return
        self._tell_lost(f"it refuses `watch mutations`: {meaning(answer, self.secret)}; sweeping only")
        self._disconnect("refused")
        if self._running:
            self._connect_soon(REFUSED_PAUSE)

    def authenticate(self, secret: bytes | None) -> None:
        """Another secret: for the next connection, which is made at once unless there is one that works."""
        if secret != self.secret:
            self.secret = secret
            if self._running and self.state != "live":
                self._disconnect("connecting")
                self._connect_soon(0.0)
