"""The writer's contract, against a real memcached and against clients that lose every race."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiomcache
import pytest
from lab import Lab, lab
from lab import Memcached as Cache

from pbal.api import Endpoint
from pbal.plugins.poll.servers import Memcached
from pbal.queue import LONGEST, ROUNDS, NotStored, aput, put


class Scripted:
    """A client whose answers are given; remembers what it was asked."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def append(self, key: Any, value: Any, *, noreply: bool) -> bool:
        assert noreply is False
        self.asked.append("append")
        return self.answers.pop(0)

    def add(self, key: Any, value: Any, expire: int, *, noreply: bool) -> bool:
        assert noreply is False
        self.asked.append(f"add {expire}")
        return self.answers.pop(0)

    def touch(self, key: Any, expire: int, *, noreply: bool) -> bool:
        assert noreply is False
        self.asked.append(f"touch {expire}")
        return True


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ((True,), ["append", "touch 60"]),
        ((False, True), ["append", "add 60"]),
        ((False, False, True), ["append", "add 60", "append", "touch 60"]),
    ],
)
def test_the_contract_is_append_add_append(answers: tuple[bool, ...], asked: list[str]) -> None:
    client = Scripted(*answers)
    put(client, b"poll:a", b"x\n", ttl=60)
    assert client.asked == asked


def test_a_queue_that_takes_nothing_is_an_error_not_silence() -> None:
    client = Scripted(*[False] * (2 * ROUNDS))
    with pytest.raises(NotStored, match="poll:a"):
        put(client, b"poll:a", b"x\n")
    assert client.answers == []


def test_a_ttl_that_is_a_date_to_memcached_is_refused() -> None:
    client = Scripted(True)
    with pytest.raises(ValueError, match="30 days"):
        put(client, b"poll:a", b"x\n", ttl=LONGEST + 1)
    assert client.asked == []


def seconds_left(cache: Cache, key: str) -> int:
    """What is left of an item's time, as memcached itself has it."""
    with socket.create_connection(("127.0.0.1", cache.port)) as sock:
        sock.sendall(f"mg {key} t\r\n".encode())
        return int(sock.recv(100).split(b"t")[1])


@lab
async def test_a_message_has_the_whole_time_whenever_its_queue_began(lab: Lab) -> None:
    cache = await lab.memcached()
    blocking, waiting = cache.client(), aiomcache.Client("127.0.0.1", cache.port)
    for number in range(2):
        blocking.set(b"poll:a", b"old\n", expire=5, noreply=False)
        if number:
            put(blocking, b"poll:a", b"new\n")
        else:
            await aput(waiting, b"poll:a", b"new\n")
        assert seconds_left(cache, "poll:a") > 290
    await waiting.close()


@lab
async def test_pymemcache_and_aiomcache_write_the_same_queue_in_order(lab: Lab) -> None:
    cache = await lab.memcached()
    blocking, waiting = cache.client(), aiomcache.Client("127.0.0.1", cache.port)
    put(blocking, b"poll:a", b"one\n")
    await aput(waiting, b"poll:a", b"two\n")
    put(blocking, b"poll:a", b"three\n")
    assert blocking.get(b"poll:a") == b"one\ntwo\nthree\n"
    await waiting.close()


@lab
async def test_aput_raises_where_nothing_can_be_stored(lab: Lab) -> None:
    class Deaf:
        async def append(self, key: bytes, value: bytes) -> bool:
            return False

        async def add(self, key: bytes, value: bytes, exptime: int) -> bool:
            return False

        async def touch(self, key: bytes, exptime: int) -> bool:
            return False

    with pytest.raises(NotStored):
        await aput(Deaf(), b"poll:a", b"x\n")


@lab
async def test_many_writers_lose_nothing_while_the_queue_begins(lab: Lab) -> None:
    """All of them find no queue at first; exactly one `add` wins, and the others must append after it."""
    cache = await lab.memcached()
    writers, each = 8, 25
    barrier = threading.Barrier(writers, timeout=10)

    def write(number: int) -> None:
        client = cache.client()
        barrier.wait()
        for message in range(each):
            put(client, b"poll:a", b"%d.%d\n" % (number, message))

    # A pool of its own: the loop's default one has fewer threads than writers, and they meet at a barrier.
    with ThreadPoolExecutor(writers) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, write, number) for number in range(writers)))
    lines = cache.client().get(b"poll:a").split()
    assert sorted(lines) == sorted(b"%d.%d" % (n, m) for n in range(writers) for m in range(each))
    for number in range(writers):
        own = [line for line in lines if line.startswith(b"%d." % number)]
        assert own == [b"%d.%d" % (number, message) for message in range(each)]


def test_keys_lie_where_libmemcached_puts_them() -> None:
    """Measured with libmemcached (pylibmc, ketama_weighted) and three memcacheds: the server of poll:user0, poll:user1 ..."""
    servers = [Endpoint("127.0.0.2", 11211), Endpoint("127.0.0.3", 11211), Endpoint("127.0.0.4", 11300)]
    measured = "0011001220001012001001121101101222200110221121002121002122101002"
    store = Memcached(servers, lambda: 0.0, lambda: 1.0, lambda *_: None)
    found = [str(store.server_of(b"poll:user%d" % number).endpoint) for number in range(len(measured))]
    names = [str(server) for server in servers]
    assert "".join(str(names.index(name)) for name in found) == measured
