"""memcached, one or several: which server holds a key, and what a queue needs of it: to be taken, to be cut.

A queue is taken in two steps, many queues at a time: `mg` reads value and cas, `md` deletes what was read. A key that
somebody wrote to in between is read again later; a `md` that was sent and not answered may have been carried out, now or when
the server wakes: its octets are returned as `unsure`, and the lane finds out at the next look (see lanes.py). Taking needs no
room in the server, and leaves nothing behind.

Keys are spread over several servers as libmemcached does with ketama (MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, equal weights;
PHP's LIBKETAMA_COMPATIBLE; pylibmc's ketama_weighted): 40 x 4 points of MD5 over `host:port-N`, without `:port` for 11211.
A unix socket is `path:0-N` there.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from uhashring import HashRing

from .memcached import TRIES, Fate, Item, Place, Server, SocketPath
from .store import StoreError

PLACES_KEPT = 1 << 16
"""Keys whose server is remembered: 10 MB at most."""

Shorten = Callable[[bytes, int, bytes], tuple[bytes, int]]
"""A value, most octets, and what came last of it -> its newest whole messages, and how many older ones went."""


@dataclass(slots=True)
class Taken:
    """What became of the queues a take asked for."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    """Emptied by us: these octets are in hand and nowhere else."""
    unsure: dict[bytes, bytes] = field(default_factory=dict)
    """Read, and perhaps emptied by us: the server did not say."""
    read: set[bytes] = field(default_factory=set)
    """Keys whose state is known up to `unsure`."""
    changed: list[bytes] = field(default_factory=list)
    """Written to between read and delete: to be taken again."""


def ring_name(place: Place) -> str:
    """A server as libmemcached writes it into its ring."""
    if isinstance(place, SocketPath):
        return f"{place.path}:0"
    return place.host if place.port == 11211 else f"{place.host}:{place.port}"


async def take(server: Server, keys: Sequence[bytes], wanted: Callable[[bytes], bool]) -> Taken:
    """Empty queues of one server, those that are still `wanted` when they have been read. Never raises: what failed is not read."""
    taken = Taken()
    with suppress(StoreError):  # the server has counted and said it
        items = await server.read(keys)
        full: list[tuple[bytes, Item]] = []
        for key in keys:
            item = items.get(key)
            if item is None or not item.value:
                taken.read.add(key)
            elif wanted(key):
                full.append((key, item))
        if full:
            _sort(full, await server.delete_many([(key, item.cas) for key, item in full]), taken)
    return taken


def _sort(full: list[tuple[bytes, Item]], fates: list[Fate], taken: Taken) -> None:
    for (key, item), fate in zip(full, fates, strict=True):
        if fate is Fate.CHANGED:
            taken.changed.append(key)
            continue
        taken.read.add(key)
        if fate is Fate.DONE:
            taken.values[key] = item.value
        elif fate is Fate.UNSURE:
            taken.unsure[key] = item.value


async def trim(server: Server, key: bytes, most: int, shorten: Shorten, ttl: int, newest: bytes) -> int:
    """Shorten a queue in place, to which `newest` was added; how many messages went. Raises: StoreError."""
    for _ in range(TRIES):
        item = (await server.read([key])).get(key)
        kept, dropped = shorten(item.value, most, newest) if item is not None else (b"", 0)
        if item is None or not dropped:
            return 0
        fate = await server.replace(key, kept, item.cas, ttl)
        if fate is not Fate.CHANGED:
            return dropped if fate is Fate.DONE else 0
    return 0


async def squeeze(server: Server, key: bytes, data: bytes, most: int, shorten: Shorten, ttl: int, front: bool = False) -> int:
    """Add octets behind (or in front of) a queue that has no room for them: the oldest go. How many. Raises: StoreError."""
    for _ in range(TRIES):
        item = (await server.read([key])).get(key)
        if item is None:
            if await server.add(key, data, ttl):
                return 0
            continue
        kept, dropped = shorten(data + item.value, most, item.value) if front else shorten(item.value + data, most, data)
        if not kept:  # it cannot be cut: what is newer stays
            kept = item.value if front else data
        fate = await server.replace(key, kept, item.cas, ttl)
        if fate is Fate.DONE:
            return dropped
    raise StoreError(f"memcached {server.name}: {key!r} changes too often to be shortened")


class Memcached:
    """All servers of one poll_store."""

    def __init__(
        self, places: Sequence[Place], now: Callable[[], float], timeout: Callable[[], float], report: Callable[[str, str, bool], None],
        secret: bytes | None = None,
    ) -> None:  # fmt: skip
        """See Server."""
        self.servers = [Server(place, now, timeout, report, secret) for place in places]
        self._by_name = {ring_name(server.endpoint): server for server in self.servers}
        self._ring = HashRing(nodes=list(self._by_name), hash_fn="ketama") if len(self.servers) > 1 else None
        self.server_of: Callable[[bytes], Server] = self._find if self._ring is None else lru_cache(PLACES_KEPT)(self._find)
        """The server that holds a key. The ring takes 3 us, and a sweep asks for every queue."""

    def _find(self, key: bytes) -> Server:
        # Of what the watch shows of others, a key may be anything.
        return self.servers[0] if self._ring is None else self._by_name[self._ring.get_node(key.decode("utf-8", "replace"))]

    def by_server(self, keys: Iterable[bytes]) -> dict[Server, list[bytes]]:
        """Keys grouped by the server that holds them."""
        if self._ring is None:
            return {self.servers[0]: list(keys)}
        groups: dict[Server, list[bytes]] = {}
        for key in keys:
            groups.setdefault(self.server_of(key), []).append(key)
        return groups

    def close(self) -> None:
        """Close every connection."""
        for server in self.servers:
            server.close()
