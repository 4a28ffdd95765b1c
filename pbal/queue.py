"""The writer's side of a poll queue, for Python: how a message gets to a parked poll through memcached.

The contract, for any language and any memcached client, is three commands:

    append KEY MESSAGE              the queue exists: done
    add KEY MESSAGE with the ttl    NOT_STORED above: nobody wrote yet, begin the queue
    append KEY MESSAGE              NOT_STORED again: somebody was faster with `add`

KEY is poll_key_prefix and the queue's name (b"poll:alice"). MESSAGE carries its framing, which with the default
poll_framing is the newline at its end; it is stored as it is. Flags are 0: plain octets, no pickles, no compression.

Blocking, with pymemcache:

    from pymemcache.client.base import Client
    from pbal.queue import put

    put(Client(("127.0.0.1", 11211)), b"poll:alice", b"hello\\n")

asyncio, with aiomcache:

    from aiomcache import Client
    from pbal.queue import aput

    await aput(Client("127.0.0.1", 11211), b"poll:alice", b"hello\\n")

Several memcacheds: the key must go where pbal looks for it, which is ketama as libmemcached has it. pymemcache's own
HashClient spreads keys otherwise; use pylibmc (behaviors={"ketama_weighted": True}), or one server.
"""

from collections.abc import Awaitable
from typing import Any, Protocol

ROUNDS = 5
"""The contract needs one round and a half. More only if the queue comes and goes in between: evicted, or at its ttl."""


class NotStored(Exception):
    """memcached took the message neither by append nor by add."""


class BlockingClient(Protocol):
    """What `put` needs of a client; pymemcache's have it. Each answers whether the value was stored."""

    def append(self, key: Any, value: Any, *, noreply: bool) -> Any: ...
    def add(self, key: Any, value: Any, expire: int, *, noreply: bool) -> Any: ...


class AsyncClient(Protocol):
    """What `aput` needs of a client; aiomcache's have it."""

    def append(self, key: bytes, value: bytes) -> Awaitable[bool]: ...
    def add(self, key: bytes, value: bytes, exptime: int) -> Awaitable[bool]: ...


def put(client: BlockingClient, key: bytes, message: bytes, ttl: int = 300) -> None:
    """Append a message to a queue; `ttl` in seconds is the life of a queue that this begins.

    Waits for memcached's answers: with noreply, which is pymemcache's default, a client reports success whatever happened.
    Raises: NotStored, and what the client raises.
    """
    for _ in range(ROUNDS):
        if client.append(key, message, noreply=False) or client.add(key, message, ttl, noreply=False):
            return
    raise NotStored(f"{key!r}: stored neither by append nor by add")


async def aput(client: AsyncClient, key: bytes, message: bytes, ttl: int = 300) -> None:
    """As `put`, for asyncio. Raises: NotStored, and what the client raises."""
    for _ in range(ROUNDS):
        if await client.append(key, message) or await client.add(key, message, ttl):
            return
    raise NotStored(f"{key!r}: stored neither by append nor by add")
