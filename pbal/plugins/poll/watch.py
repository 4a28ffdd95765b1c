"""memcached that pushes: a connection that said `watch mutations`, and a heartbeat that keeps it awake.

memcached (1.6.18 measured) writes a line for every store into the stream, but its log thread sleeps longer the quieter the
server is: 290 ms median on an idle one. A tiny key of our own, stored every BEAT, keeps it awake (2 ms) and proves
by coming back that the stream lives. None seen for STALE: the stream is not trusted, and the sweep is alone until it is back.

The stream may drop lines, and says `skipped=N` when it knows. So what is read here is a hint: it can only make a
take earlier, never unnecessary. It shows everybody's keys; the wanted prefix is searched in the octets as they come,
before any line is split.

A watcher lives only while polls are parked. At most 20 watchers fit on a server, and hosted ones may refuse: that is said
once, and retried as seldom as REFUSED_PAUSE.
"""

import asyncio
import logging
import os
import re
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pbal.api import Endpoint, spawn

log = logging.getLogger("pbal.poll")

BEAT = 0.02
STALE = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
REFUSED_PAUSE = 60.0
LONGEST_TAIL = 4096
"""Octets of an unfinished line kept; a key has 250 at most, percent-coded 750."""


class _Stream(asyncio.Protocol):
    """The watching connection."""

    def __init__(self, watcher: "Watcher") -> None:
        self._watcher = watcher
        self._tail = b""
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"watch mutations\r\n")

    def data_received(self, data: bytes) -> None:
        watcher = self._watcher
        data = self._tail + data
        if not self._greeted:
            line, found, data = data.partition(b"\n")
            if not found:
                self._tail = line[:LONGEST_TAIL]
                return
            self._greeted = True
            if line.rstrip(b"\r") != b"OK":
                watcher.refused(line.decode("latin-1").strip())
                return
        end = data.rfind(b"\n") + 1
        self._tail = data[end:][-LONGEST_TAIL:]
        watcher.lines(data[:end])

    def connection_lost(self, exc: Exception | None) -> None:
        self._watcher.lost("the stream ended")


class _Beat(asyncio.Protocol):
    """The connection the heartbeat is stored through. Its answers are not asked for (noreply)."""

    def __init__(self, watcher: "Watcher") -> None:
        self._watcher = watcher

    def connection_lost(self, exc: Exception | None) -> None:
        self._watcher.lost("the heartbeat's connection ended")


class Watcher:
    """Follows one server while told to. `state` is off, connecting, live, stale or refused."""

    def __init__(
        self, endpoint: Endpoint, prefix: bytes, now: Callable[[], float], stored: Callable[[bytes], None],
        distrust: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`stored(key)` is called for each key with the prefix; `distrust(why)` when a sweep is due at once."""
        self._endpoint = endpoint
        self._now = now
        self._stored = stored
        self._distrust = distrust
        self.state = "off"
        self.lag = 0.0
        """Seconds from a heartbeat's store to its line, last seen."""
        self.seen = 0
        self.skipped = 0
        own = b"%b.pbal.%d.%b" % (prefix[:200], os.getpid(), os.urandom(6).hex().encode())
        self._beat_command = b"set %b 0 60 1 noreply\r\nx\r\n" % own
        quoted = re.escape(quote_from_bytes(prefix, safe="").encode())
        # memcached percent-codes some octets and not others; what is not coded in the stream is matched as it is.
        plain = re.escape(prefix)
        self._lines = re.compile(rb"key=((?:" + quoted + rb"|" + plain + rb")\S*) status=stored cmd=(\w+)")
        self._own = own
        self._streams: list[Any] = []
        self._beat_transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._beat_sent = 0.0
        self._beat_waiting = False
        self._last_seen = 0.0
        self._pause = FIRST_PAUSE
        self._running = False
        self._said_refused = False

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
            spawn(self, self._open(), f"watch {self._endpoint}")

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STALE * 4):
                beat, _ = await loop.create_connection(lambda: _Beat(self), self._endpoint.host, self._endpoint.port)
                self._streams.append(beat)
                stream, _ = await loop.create_connection(lambda: _Stream(self), self._endpoint.host, self._endpoint.port)
                self._streams.append(stream)
        except (OSError, TimeoutError) as error:
            self.lost(str(error) or "too slow")
            return
        if not self._running:
            self._disconnect("off")
            return
        self._beat_transport = beat
        self._last_seen = self._now()
        self._beat_waiting = False
        self._beat()

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
        for coded, command in self._lines.findall(data):
            key = unquote_to_bytes(coded)
            if key == self._own:
                self._heard()
            elif command != b"cas":  # takes, ours and other pbals', leave an empty value
                self.seen += 1
                self._stored(key)

    def _heard(self) -> None:
        now = self._now()
        self._last_seen = now
        if self._beat_waiting:
            self._beat_waiting = False
            self.lag = now - self._beat_sent
        if self.state != "live":
            self.state = "live"
            self._pause = FIRST_PAUSE
            self._distrust("the stream is live")

    # -- trouble -------------------------------------------------------------------------------------------------

    def lost(self, why: str) -> None:
        """The stream or the heart stopped: sweep, and try again later."""
        if not self._running or (not self._streams and self.state != "connecting"):
            return
        was_live = self.state == "live"
        self._disconnect("stale")
        if was_live:
            log.warning("watch on memcached %s: %s; sweeping only until it is back", self._endpoint, why)
            self._distrust(why)
        self._connect_soon(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def refused(self, answer: str) -> None:
        """The server does not let us watch."""
        if not self._said_refused:
            self._said_refused = True
            log.warning("memcached %s refuses `watch mutations` (%s): sweeping only", self._endpoint, answer[:100])
        self._disconnect("refused")
        if self._running:
            self._connect_soon(REFUSED_PAUSE)
