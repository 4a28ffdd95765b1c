"""The writer's side of a poll queue, for Python: how a message gets to a parked poll through memcached.

The contract, for any language and any memcached client, is three commands:

    append KEY MESSAGE              the queue exists: then `touch KEY ttl`, and done
    add KEY MESSAGE with the ttl    NOT_STORED above: nobody wrote yet, begin the queue
    append KEY MESSAGE              NOT_STORED again: somebody was faster with `add`; touch

append does not renew the time of a queue. Without the touch a message would go with the oldest, perhaps within a second.

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


LONGEST = 30 * 24 * 3600
"""Seconds. A larger number is a date to memcached, and a date long past: the message would be gone at once."""


class NotStored(Exception):
    """memcached took the message neither by append nor by add."""


class BlockingClient(Protocol):
    """What `put` needs of a client; pymemcache's have it. Each answers whether the value was stored."""

    def append(self, key: Any, value: Any, *, noreply: bool) -> Any: ...
    def add(self, key: Any, value: Any, expire: int, *, noreply: bool) -> Any: ...
    def touch(self, key: Any, expire: int, *, noreply: bool) -> Any: ...


class AsyncClient(Protocol):
    """What `aput` needs of a client; aiomcache's have it."""

    def append(self, key: bytes, value: bytes) -> Awaitable[bool]: ...
    def add(self, key: bytes, value: bytes, exptime: int) -> Awaitable[bool]: ...
    def touch(self, key: bytes, exptime: int) -> Awaitable[bool]: ...


def _check(ttl: int) -> None:
    if ttl > LONGEST:
        raise ValueError(f"a ttl of {ttl} seconds: memcached keeps nothing for more than 30 days ({LONGEST})")


def put(client: BlockingClient, key: bytes, message: bytes, ttl: int = 300) -> None:
    """Append a message to a queue, which lives for `ttl` seconds from now on.

    Waits for memcached's answers: with noreply, which is pymemcache's default, a client reports success whatever happened.
    Raises: NotStored, ValueError for a ttl of more than 30 days, and what the client raises.
    """
    _check(ttl)
    for _ in range(ROUNDS):
        if client.append(key, message, noreply=False):
            client.touch(key, ttl, noreply=False)
            return
        if client.add(key, message, ttl, noreply=False):
            return
    raise NotStored(f"{key!r}: stored neither by append nor by add")


async def aput(client: AsyncClient, key: bytes, message: bytes, ttl: int = 300) -> None:
    """As `put`, for asyncio. Raises: NotStored, ValueError, and what the client raises."""
    _check(ttl)
    for _ in range(ROUNDS):
        if await client.append(key, message):
            await client.touch(key, ttl)
            return
        if await client.add(key, message, ttl):
            return
    raise NotStored(f"{key!r}: stored neither by append nor by add")
