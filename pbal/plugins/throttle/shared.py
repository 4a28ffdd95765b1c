"""What several pbals know together: records of clients in memcached.

Requests whose client has to be looked up stand in a line. A few tasks take from it, many requests at a time, ask the servers for all of
their clients at once, tell what was found, and write back what was decided. There are as many tasks as the service allows connections,
and none while nothing waits.

A value is what Perlbal writes: a double and an unsigned 16-bit number, both in the machine's order: when the client was seen last, in
seconds since 1970, and how often it came too soon.

A server that fails, or does not answer within PATIENCE, is left alone for PAUSE, and the connection is closed, since nobody knows which
answers are still to come on it. Nothing waits for one that is left alone. So that one task's failure is no other's, each has a connection
of its own while it asks, and gives it back to be used again.
"""

import asyncio
import re
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar
from zlib import crc32

import aiomcache

from pbal.api import Endpoint, spawn

PATIENCE: Final = 1.0
PAUSE: Final = 1.0
AT_ONCE: Final = 100
"""Clients that are asked for in one turn."""
_DOTTED: Final = re.compile(rb"[0-9.]+")
_VALUE: Final = struct.Struct("=dH")
LONGEST: Final = 30 * 86400
"""Seconds; memcached takes more for a date."""

T = TypeVar("T")
Seen = tuple[float, int]
"""When a client was seen last (seconds since 1970), and how often it came too soon."""
Judge = Callable[[Seen | None], Seen | None]
"""Told what was found; it returns what is to be written."""


class Shared:
    """The servers of one service."""

    def __init__(self, servers: Iterable[Endpoint], name: str, clients: int, failed: Callable[[str, str], None]) -> None:
        self._servers = [_Server(endpoint) for endpoint in servers]
        self._name = name.encode()
        self._clients = clients
        self._failed = failed
        self._line: deque[tuple[bytes, Judge]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.lasts = 60.0
        """Seconds that a record is kept."""

    def ask(self, who: bytes, judge: Judge) -> None:
        """Find out what is known of a client; `judge` is called later, once, unless this is closed before."""
        self._line.append((self._name + (who if _DOTTED.fullmatch(who) else who.hex().encode()), judge))
        if len(self._tasks) < min(self._clients, len(self._line)):
            task = spawn(self, self._work(), f"throttle {self._name.decode()}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)  # of one that was cancelled before it began

    async def _work(self) -> None:
        try:
            await self._empty_the_line()
        finally:  # at once: who asks before callbacks run would count on a task that has ended
            self._tasks.discard(asyncio.current_task())

    async def _empty_the_line(self) -> None:
        while self._line:
            waiting = [self._line.popleft() for _ in range(min(AT_ONCE, len(self._line)))]
            found = await self._get({key for key, _ in waiting})
            decided: dict[bytes, Seen] = {}
            for key, judge in waiting:
                written = judge(decided.get(key, found.get(key)))
                if written is not None:
                    decided[key] = written
            await self._put(decided)

    async def _get(self, keys: set[bytes]) -> dict[bytes, Seen]:
        found: dict[bytes, Seen] = {}
        for server, mine in self._by_server(keys):
            values = await self._do(server, lambda client, mine=mine: client.multi_get(*mine))  # type: ignore[misc]
            for key, value in zip(mine, values or (), strict=False):
                if value is not None and len(value) == _VALUE.size:
                    found[key] = _VALUE.unpack(value)
        return found

    async def _put(self, decided: dict[bytes, Seen]) -> None:
        lasts = max(1, min(LONGEST, round(self.lasts + 0.5)))

        async def put(client: aiomcache.Client, keys: list[bytes]) -> None:
            for key in keys:
                last, violations = decided[key]
                await client.set(key, _VALUE.pack(last, min(violations, 65535)), exptime=lasts)

        for server, mine in self._by_server(decided):
            await self._do(server, lambda client, mine=mine: put(client, mine))  # type: ignore[misc]

    async def _do(self, server: "_Server", what: Callable[[aiomcache.Client], Awaitable[T]]) -> T | None:
        """Do something with a connection to a server; None where that failed."""
        client = server.free.pop() if server.free else aiomcache.Client(server.endpoint.host, server.endpoint.port, pool_size=1)
        done = False
        try:
            async with asyncio.timeout(PATIENCE):
                found = await what(client)
            done = True
            return found
        except (OSError, TimeoutError, EOFError, aiomcache.ClientException) as error:
            server.rests = time.monotonic() + PAUSE
            self._failed(str(server.endpoint), str(error) or type(error).__name__)
            return None
        finally:
            if done and not self._closed:
                server.free.append(client)
            else:
                await client.close()

    def _by_server(self, keys: Iterable[bytes]) -> list[tuple["_Server", list[bytes]]]:
        """Keys by the server that has them, without those of servers that are left alone."""
        found: dict[int, list[bytes]] = {}
        for key in keys:
            found.setdefault(crc32(key) % len(self._servers), []).append(key)
        now = time.monotonic()
        return [(self._servers[place], mine) for place, mine in found.items() if self._servers[place].rests <= now]

    def close(self) -> None:
        """End. Who was not told anything is not told any more."""
        self._closed = True
        self._line.clear()
        for task in list(self._tasks):
            task.cancel()
        for server in self._servers:
            for client in server.free:
                spawn(server, client.close(), "throttle close")
            server.free = []


class _Server:
    """One memcached."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.rests = 0.0
        """Until when it is left alone (monotonic clock)."""
        self.free: list[aiomcache.Client] = []
        """Connections that nobody uses."""
