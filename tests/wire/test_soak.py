"""A minute of everything at once; at the end descriptors, tasks and memory are where they began."""

import asyncio
import gc
import os
import random
import time
import tracemalloc

import pytest
from lab import lab, read_response, until

from pbal.net import tasks

SECONDS = 60.0


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@lab
async def test_a_minute_of_everything_leaves_nothing_behind(lab):
    cache = await lab.memcached()

    async def app(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    origin = await lab.origin(app)
    text = "".join(
        f"""
        CREATE SERVICE {name}
          SET role             = reverse_proxy
          SET listen           = 127.0.0.1:0
          SET pool             = app
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
          SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
          SET poll_timeout     = 2s
          SET poll_interval    = 100ms
          SET poll_store       = {store}
          SET backend_persist_cache = 4
        ENABLE {name}
        """
        for name, store in (("mem", "memory"), ("cached", f"memcached {cache.address}"))
    )
    pbal = await lab.pbal(f"""
        LOAD poll
        CREATE POOL app
          POOL app ADD {origin.address}
        {text}
    """)
    chance = random.Random(1)
    ending = asyncio.Event()
    done = {"polls": 0, "answers": 0, "requests": 0, "reloads": 0, "vanished": 0}

    async def connect():
        return await asyncio.open_connection(*pbal.server.address(chance.choice(["mem", "cached"])))

    async def poller() -> None:
        while not ending.is_set():
            reader, writer = await connect()
            for _ in range(chance.randrange(1, 6)):
                writer.write(get(f"/poll/q{chance.randrange(40)}"))
                done["polls"] += 1
                if chance.random() < 0.1:
                    done["vanished"] += 1
                    break
                response = await read_response(reader)
                done["answers"] += response.status == 200
            if chance.random() < 0.5:
                writer.transport.abort()
            writer.close()

    async def publisher() -> None:
        reader, writer = await connect()
        while not ending.is_set():
            body = b"x" * chance.randrange(1, 2000)
            head = f"POST /publish/q{chance.randrange(40)} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await read_response(reader)
        writer.close()

    async def visitor() -> None:
        while not ending.is_set():
            reader, writer = await connect()
            for _ in range(20):
                writer.write(get("/app"))
                assert (await read_response(reader)).body == b"hello"
                done["requests"] += 1
            writer.close()

    async def operator() -> None:
        while not ending.is_set():
            await asyncio.sleep(0.05)
            for statement in ("RELOAD poll", "show parked", "socks", "states", "show store"):
                answer = await pbal.say(statement)
                assert not answer.startswith("ERROR"), answer
            done["reloads"] += 1

    async def run(seconds: float) -> None:
        ending.clear()
        workers = [asyncio.create_task(work()) for work in (*[poller] * 60, *[publisher] * 4, *[visitor] * 4, operator)]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not any(task.done() for task in workers):
            await asyncio.sleep(0.05)
        ending.set()
        await asyncio.gather(*workers)
        await until(lambda: pbal.counts["clients"] == 0 and pbal.counts["poll_parked"] == 0, "everybody to have left")
        await until(lambda: not pbal.plugin("cached").courier.busy, "store calls to end")
        gc.collect()

    await run(SECONDS / 6)  # the caches of libraries fill once
    tracemalloc.start()
    held, tasks_before, open_before = tracemalloc.get_traced_memory()[0], len(tasks.running()), descriptors()
    await run(SECONDS * 5 / 6)
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert min(done.values()) > 10, done
    assert pbal.plugin("mem").lot.is_empty() and pbal.plugin("cached").lot.is_empty()
    assert len(pbal.world.clients) == 0
    assert descriptors() <= open_before + 12, "bored backends, the store's and the watch's connections come and go"
    assert len(tasks.running()) <= tasks_before + 4, tasks.running()
    held_queues = sum(len(value) for value, _ in pbal.plugin("mem").memory.content.values())
    assert grown - held_queues < 3_000_000, grown
    assert pbal.counts["poll_lost"] == 0
    assert pbal.counts["plugin_errors"] == 0
