"""memcached, one or several: the one user of aiomcache.

Two things about aiomcache 0.8.2 shape this file. A call that is cancelled puts its connection back into the pool with the
answer unread, and the next caller reads somebody else's: so no call is ever cancelled; one that takes longer than
poll_store_timeout has its connections cut off under it, and a new client takes their place. And a connection that ends
while a simple command waits for its line makes it read an empty line for ever, without giving way: so that method is
ours (`_execute_simple_command`), and an end is an error.

Calls wait for one of CONNECTIONS slots here, before their time runs, and never inside aiomcache's pool: ten thousand queues
that fill at once are work, not a dead server, and a caller inside the pool is forgotten there when its client is dropped.

Queues are taken many at a time: one `gets`, then their `cas` to the empty value in one write. A `cas` that was sent and not
answered may have been carried out, now or when the server wakes: what it would have taken is returned as `unsure`, and
the courier finds out at the next look (see Courier.doubts).

Each server is up, or down since some time and tried again after a pause that doubles up to LONGEST_PAUSE. A call to a server
that is down fails at once, without a connection. One log line when it goes and one when it returns.

Keys are spread over several servers as libmemcached does with ketama (MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, equal weights;
PHP's LIBKETAMA_COMPATIBLE; pylibmc's ketama_weighted): 40 x 4 points of MD5 over `host:port-N`, without `:port` for 11211.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiomcache
from aiomcache.client import acquire
from aiomcache.exceptions import ClientException
from uhashring import HashRing

from pbal.api import Endpoint, spawn

from .store import StoreError

log = logging.getLogger("pbal.poll")

LONGEST_PAUSE = 5.0
FIRST_PAUSE = 0.1
CONNECTIONS = 4
"""Connections to a server; calls beyond that wait their turn."""
TRIES = 20
"""Rounds of gets and cas on one key before it is left to the next sweep."""


@dataclass(slots=True)
class Taken:
    """What became of the queues a take asked for."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    """Emptied by us: these octets are in hand and nowhere else."""
    unsure: dict[bytes, bytes] = field(default_factory=dict)
    """Read, and perhaps emptied by us: the server did not say."""
    read: set[bytes] = field(default_factory=set)
    """Keys whose state is known up to `unsure`; the others are to be asked for again."""
    cas_lost: int = 0
    failed: bool = False


@dataclass(slots=True)
class _Emptying:
    """A pipeline of `cas`: whether it was sent, and the answers that came."""

    sent: bool = False
    stored: list[bool] = field(default_factory=list)


async def _as_it_is(value: bytes, flags: int) -> bytes:
    """Values with flags are taken as octets."""
    return value


class _Client(aiomcache.FlagClient[bytes]):
    """aiomcache with an end to reading, pipelined takes, and a way to cut off."""

    dead = False
    """Cut off. A call that gets its connection only then must send nothing: its caller has given up."""

    def _alive(self) -> None:
        if self.dead:
            raise ConnectionAbortedError("cut off")

    @acquire
    async def gets_many(self, conn: Any, *keys: bytes) -> tuple[dict[bytes, bytes], dict[bytes, int]]:
        """Values and cas tokens of those keys that exist."""
        self._alive()
        values, tokens = await self._multi_get(conn, *keys, with_cas=True)
        return values, tokens

    @acquire
    async def empty_many(self, conn: Any, tokens: list[tuple[bytes, int]], ttl: int, emptying: _Emptying) -> None:
        """`cas` each key to the empty value, in one write. The answers are in `emptying` also when this fails half-way."""
        self._alive()
        emptying.sent = True
        conn.writer.write(b"".join([b"cas %b 0 %d 0 %d\r\n\r\n" % (key, ttl, token) for key, token in tokens]))
        await conn.writer.drain()
        for _ in tokens:
            line = await conn.reader.readline()
            if line in (b"STORED\r\n", b"EXISTS\r\n", b"NOT_FOUND\r\n"):
                emptying.stored.append(line == b"STORED\r\n")
            else:
                raise ClientException("cas failed", line)

    async def _execute_simple_command(self, conn: Any, raw_command: bytes) -> bytes:
        self._alive()
        conn.writer.write(raw_command)
        await conn.writer.drain()
        line: bytes = await conn.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("memcached closed the connection")
        return line[:-2]

    def _validate_key(self, key: bytes) -> bytes:
        """names.key_for has judged every key when its poll came; once more in each sweep is a third of its cost."""
        return key

    def cut_off(self) -> None:
        """Close every connection at once; calls in flight fail."""
        self.dead = True
        pool = self._pool
        connections = list(pool._in_use)
        while not pool._pool.empty():
            connections.append(pool._pool.get_nowait())
        for connection in connections:
            if connection.reader.exception() is None:
                connection.reader.set_exception(ConnectionAbortedError("cut off"))
            connection.writer.transport.abort()


class Server:
    """One memcached: its client and whether it is up."""

    def __init__(self, endpoint: Endpoint, now: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.name = str(endpoint)
        self.up = True
        self.since = now()
        self._now = now
        self._pause = FIRST_PAUSE
        self._try_at = 0.0
        self._client: _Client | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self.errors = 0

    @property
    def client(self) -> _Client:
        if self._client is None:
            self._client = _Client(
                self.endpoint.host, self.endpoint.port, pool_size=CONNECTIONS, pool_minsize=CONNECTIONS,
                get_flag_handler=_as_it_is,
            )  # fmt: skip
        return self._client

    @property
    def may_be_tried(self) -> bool:
        """Whether a call is worth making now."""
        return self.up or self._now() >= self._try_at

    async def call(self, patience: float, make: Callable[[_Client], Awaitable[Any]]) -> Any:
        """Make one call when a connection is free; `patience` (seconds) runs from then. Raises: StoreError."""
        async with self._slots:
            return await self._call(patience, make)

    async def _call(self, patience: float, make: Callable[[_Client], Awaitable[Any]]) -> Any:
        if not self.may_be_tried:
            raise StoreError(f"memcached {self.name} is down")
        if not self.up:
            self._try_at = self._now() + self._pause  # one call at a time finds out
        client = self.client
        call = spawn(self, _guarded(make(client)), f"memcached {self.name}")
        done, _ = await asyncio.wait({call}, timeout=patience)
        if not done:
            self._failed(client, f"no answer in {patience:g} s")
        result, error = call.result() if done else (None, None)
        if error is not None:
            if isinstance(error, ClientException) and "SERVER_ERROR" in str(error):  # it lives, and says no: full, too large
                raise StoreError(f"memcached {self.name}: {error}")
            self._failed(client, str(error) or type(error).__name__)
        if not self.up:
            self.up, self.since, self._pause = True, self._now(), FIRST_PAUSE
            log.warning("memcached %s is back", self.name)
        return result

    def _failed(self, client: _Client, reason: str) -> None:
        """Drop the client whole. Raises: StoreError, always."""
        self.errors += 1
        if self._client is client:
            self._client = None
            client.cut_off()
            if self.up:
                self.up, self.since = False, self._now()
                log.warning("memcached %s is gone: %s", self.name, reason)
            else:
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
            self._try_at = self._now() + self._pause
        raise StoreError(f"memcached {self.name}: {reason}")

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.cut_off()
            self._client = None


async def _guarded(call: Awaitable[Any]) -> tuple[Any, Exception | None]:
    """A call's result or its exception, so that one nobody waits for any more is not reported as unseen."""
    try:
        return await call, None
    except (OSError, EOFError, ClientException, asyncio.IncompleteReadError, ValueError, IndexError) as error:
        return None, error


def ring_name(endpoint: Endpoint) -> str:
    """A server as libmemcached writes it into its ring."""
    return endpoint.host if endpoint.port == 11211 else f"{endpoint.host}:{endpoint.port}"


class Memcached:
    """All servers of one poll_store. Units: octets, seconds."""

    def __init__(self, endpoints: Sequence[Endpoint], now: Callable[[], float], timeout: Callable[[], float]) -> None:
        self.servers = [Server(endpoint, now) for endpoint in endpoints]
        self._timeout = timeout
        self._by_name = {ring_name(server.endpoint): server for server in self.servers}
        self._ring = HashRing(nodes=list(self._by_name), hash_fn="ketama") if len(self.servers) > 1 else None

    def server_of(self, key: bytes) -> Server:
        """The server that holds a key."""
        if self._ring is None:
            return self.servers[0]
        return self._by_name[self._ring.get_node(key.decode())]

    def by_server(self, keys: Iterable[bytes]) -> dict[Server, list[bytes]]:
        """Keys grouped by the server that holds them."""
        if self._ring is None:
            return {self.servers[0]: list(keys)}
        groups: dict[Server, list[bytes]] = {}
        for key in keys:
            groups.setdefault(self.server_of(key), []).append(key)
        return groups

    async def held(self, server: Server, keys: list[bytes]) -> list[bytes]:
        """Which of `keys`, all of one server, hold something. Raises: StoreError."""
        values = await server.call(self._timeout(), lambda client: client.multi_get(*keys))
        return [key for key, value in zip(keys, values, strict=True) if value]

    async def peek(self, key: bytes) -> bytes:
        """A queue's value, untouched. Raises: StoreError."""
        value = await self.server_of(key).call(self._timeout(), lambda client: client.get(key))
        return value or b""

    async def take(self, server: Server, keys: list[bytes], ttl: int) -> Taken:
        """Empty queues, all of one server. Never raises: what failed is in the answer."""
        taken, wanted = Taken(), keys
        for _ in range(TRIES):
            wanted = await self._take_round(server, wanted, ttl, taken)
            if not wanted:
                break
        return taken

    async def _take_round(self, server: Server, keys: list[bytes], ttl: int, taken: Taken) -> list[bytes]:
        """One `gets` and one row of `cas`; the keys that somebody appended to in between."""
        timeout, emptying = self._timeout(), _Emptying()
        try:
            values, tokens = await server.call(timeout, lambda client: client.gets_many(*keys))
            full = [(key, tokens[key]) for key in keys if values.get(key)]
            taken.read.update(key for key in keys if not values.get(key))
            if full:
                await server.call(timeout, lambda client: client.empty_many(full, ttl, emptying))
        except StoreError:
            taken.failed = True
            if not emptying.sent:
                return []
            for key, _ in full[len(emptying.stored) :]:
                taken.unsure[key] = values[key]
                taken.read.add(key)
        lost: list[bytes] = []
        for (key, _), stored in zip(full, emptying.stored, strict=False):
            if stored:
                taken.values[key] = values[key]
                taken.read.add(key)
            else:
                lost.append(key)
        taken.cas_lost += len(lost)
        return [] if taken.failed else lost

    async def append(self, key: bytes, data: bytes, ttl: int) -> None:
        """Add octets behind a queue, by the writer's contract. Raises: StoreError."""
        await self._join("append", key, data, ttl)

    async def put_back(self, key: bytes, data: bytes, ttl: int) -> None:
        """Add octets in front of a queue. Raises: StoreError."""
        await self._join("prepend", key, data, ttl)

    async def _join(self, verb: str, key: bytes, data: bytes, ttl: int) -> None:
        """Add octets to a queue, which lives for `ttl` from now on: neither verb renews its time, and what is new may not go with what was.

        A touch that fails leaves the message where it is, with the time that is left.
        """
        server, timeout = self.server_of(key), self._timeout()
        for _ in range(TRIES):
            if await server.call(timeout, lambda client: getattr(client, verb)(key, data)):
                await server.call(timeout, lambda client: client.touch(key, ttl))
                return
            if await server.call(timeout, lambda client: client.add(key, data, exptime=ttl)):
                return
        raise StoreError(f"memcached {server.name} stores neither by {verb} nor by add")

    async def trim(self, key: bytes, shorten: Callable[[bytes], tuple[bytes, int]], ttl: int) -> int:
        """Shorten a queue in place; how many messages went. Raises: StoreError."""
        server, timeout = self.server_of(key), self._timeout()
        for _ in range(TRIES):
            value, token = await server.call(timeout, lambda client: client.gets(key))
            kept, dropped = shorten(bytes(value or b""))
            if not dropped or token is None:
                return 0
            if await server.call(timeout, lambda client, kept=kept, token=token: client.cas(key, kept, token, exptime=ttl)):  # type: ignore[misc]
                return dropped
        return 0

    def close(self) -> None:
        """Close every connection."""
        for server in self.servers:
            server.close()
