"""Half a minute of everything at once; at the end descriptors, tasks, objects and memory are where they began.

Memory as a whole also grows by what is no leak: the interpreter's table of interned strings is rebuilt once, a library's
cache fills once. So the time is cut into equal windows, with everybody gone at the end of each. What leaks grows in every window;
what is rebuilt once grows in one. Objects are counted by class: whatever pbal made for a client, a poll or a generation of a plugin
has to be gone with it, to the last one.
"""

import asyncio
import gc
import os
import random
import tracemalloc

import pytest
from lab import Lab, Pbal, lab, read_response, until
from leaks import descriptors, live

from pbal.http1 import lines
from pbal.net import tasks

SECONDS = float(os.environ.get("PBAL_SOAK_SECONDS", "30"))
WINDOWS = 3
"""After one to warm up."""
COMING_AND_GOING = 12
"""Bored backends, the store's and the watch's connections: how many there are differs from moment to moment."""
LEAK = 1_000_000
"""Octets a window, five times what one was seen to keep. A window answers fifteen thousand polls: a hundred octets left by each
are seen. What a reload leaves is found as objects, one by one."""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode()


class Crowd:
    """Everybody who wants something of a pbal: pollers, publishers, visitors of its pool, an operator who reloads."""

    def __init__(self, pbal: Pbal) -> None:
        self.pbal = pbal
        self.chance = random.Random(1)
        self.ending = asyncio.Event()
        self.done = {"polls": 0, "answers": 0, "requests": 0, "reloads": 0, "vanished": 0}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.pbal.server.address(self.chance.choice(["mem", "cached"])))

    async def poller(self) -> None:
        chance = self.chance
        while not self.ending.is_set():
            reader, writer = await self.connect()
            for _ in range(chance.randrange(1, 6)):
                writer.write(get(f"/poll/q{chance.randrange(40)}"))
                self.done["polls"] += 1
                if chance.random() < 0.1:
                    self.done["vanished"] += 1
                    break
                response = await read_response(reader)
                self.done["answers"] += response.status == 200
                if self.ending.is_set():
                    break
            if chance.random() < 0.5:
                writer.transport.abort()
            writer.close()

    async def publisher(self) -> None:
        chance = self.chance
        reader, writer = await self.connect()
        while not self.ending.is_set():
            body = b"x" * chance.randrange(1, 2000)
            head = f"POST /publish/q{chance.randrange(40)} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await read_response(reader)
        writer.close()

    async def visitor(self) -> None:
        while not self.ending.is_set():
            reader, writer = await self.connect()
            for _ in range(20):
                writer.write(get("/app"))
                assert (await read_response(reader)).body == b"hello"
                self.done["requests"] += 1
            writer.close()

    async def operator(self) -> None:
        while not self.ending.is_set():
            await asyncio.sleep(0.05)
            for statement in ("RELOAD poll", "show parked", "socks", "states", "show store"):
                answer = await self.pbal.say(statement)
                assert not answer.startswith("ERROR"), answer
            self.done["reloads"] += 1

    async def run(self, seconds: float) -> None:
        """All of them for a while; then wait until they have left."""
        pbal = self.pbal
        self.ending.clear()
        work = (*[self.poller] * 60, *[self.publisher] * 4, *[self.visitor] * 4, self.operator)
        workers = [asyncio.create_task(one()) for one in work]
        await asyncio.wait(workers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)  # none ends by itself but by failing
        self.ending.set()
        await asyncio.gather(*workers)
        await until(lambda: pbal.counts["clients"] == 0 and pbal.counts["poll_parked"] == 0, "everybody to have left")
        await until(lambda: not pbal.plugin("cached").hub.store.courier.busy, "store calls to end")
        gc.collect()

    def memory(self) -> int:
        """Octets in use, without the messages that nobody has fetched yet."""
        messages = sum(len(held.data) for held in self.pbal.plugin("mem").hub.store.content.values())
        return tracemalloc.get_traced_memory()[0] - messages


CONF = """
    LOAD poll
    CREATE POOL app
      POOL app ADD {origin}
    CREATE SERVICE mem
      {settings}
      SET poll_store       = memory
    ENABLE mem
    CREATE SERVICE cached
      {settings}
      SET poll_store       = memcached {cache}
    ENABLE cached
"""
SETTINGS = r"""
      SET role             = reverse_proxy
      SET listen           = 127.0.0.1:0
      SET pool             = app
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET poll_timeout     = 2s
      SET poll_interval    = 100ms
      SET backend_persist_cache = 4
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@lab
async def test_everything_at_once_leaves_nothing_behind(lab: Lab) -> None:
    cache = await lab.memcached()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    origin = await lab.origin(app)
    pbal = await lab.pbal(CONF.format(origin=origin.address, cache=cache.address, settings=SETTINGS))
    crowd = Crowd(pbal)
    window = SECONDS / (WINDOWS + 1)
    await crowd.run(window)
    objects, tasks_before, open_before = live(), len(tasks.running()), descriptors()
    tracemalloc.start()
    grown = []
    for _ in range(WINDOWS):
        held = crowd.memory()
        await crowd.run(window)
        grown.append(crowd.memory() - held)
    tracemalloc.stop()
    queues = len(pbal.plugin("mem").hub.store.content)  # messages that nobody collected yet
    may_be = {name: queues if name.endswith(".memory.Held") else COMING_AND_GOING for name in live()}
    may_be |= {"pbal.http1.lines.Line": 2 * lines.MOST, "pbal.http1.lines.Name": lines.NAMES}  # kept for all connections, and bounded
    more = {name: number for name, number in (live() - objects).items() if number > may_be.get(name, COMING_AND_GOING)}
    assert min(crowd.done.values()) > 10, crowd.done
    assert pbal.plugin("mem").hub.lot.is_empty() and pbal.plugin("cached").hub.lot.is_empty()
    assert len(pbal.world.clients) == 0
    assert descriptors() <= open_before + COMING_AND_GOING
    assert len(tasks.running()) <= tasks_before + 4, tasks.running()
    assert not more, f"there are more of them now: {more}"
    assert min(grown) < LEAK, f"every window grew: {grown}"
    assert pbal.counts["poll_lost"] == 0
    assert pbal.counts["plugin_errors"] == 0
