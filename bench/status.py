"""The console's pages with very many polls parked: the longest turn of the loop while they are made, which is what everybody else waits.

pbal runs in this process, the polls come from another. A coroutine that gives way at once, over and over, sees how long each turn took: in
time of this thread's processor, since on a machine with other work the clock measures that.
"""

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers

Row = tuple[str, float, str, str]
PARKED = 15_000
TIMES = 5
NODES = 200
CONF = """
LOAD poll
CREATE POOL app
{nodes}
CREATE SERVICE chat
  SET role         = reverse_proxy
  SET listen       = 127.0.0.1:{port}
  SET pool         = app
  SET plugins      = poll
  SET poll_uri     = ^/poll/(?P<queue>[^/]+)$
  SET poll_timeout = 600s
ENABLE chat
CREATE SERVICE mgmt
  SET role   = management
  SET listen = 127.0.0.1:{console}
ENABLE mgmt
"""


class Turns:
    """The longest turn of the loop, in seconds of processor time."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.thread_time()

    def begin(self) -> None:
        """Forget what was."""
        self.longest, self._last = 0.0, time.thread_time()

    async def watch(self) -> None:
        """For ever."""
        while True:
            now = time.thread_time()
            self.longest = max(self.longest, now - self._last)
            self._last = now
            await asyncio.sleep(0)


async def _get(console: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", console)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    octets = len(await reader.read())
    writer.close()
    return octets


async def _measured(port: int, console: int, path: str) -> list[Row]:
    from pbal.commands.interpreter import Interpreter
    from pbal.model.world import World
    from pbal.server import Server

    world = World()
    interpreter = Interpreter(world)
    mistakes = interpreter.run_file(path)
    if mistakes:
        raise RuntimeError("\n".join(mistake.render() for mistake in mistakes))
    server = Server(world, interpreter)
    server.start()
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.park", str(port), str(PARKED), stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    rows: list[Row] = []
    try:
        while world.counters.counts["poll_parked"] < PARKED:  # noqa: ASYNC110 - a counter tells nobody that it changed
            await asyncio.sleep(0.1)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20000, 20, 50)  # as pbal has it
        turns = Turns()
        watching = asyncio.create_task(turns.watch())
        for page, target in (("/metrics", "10"), ("/", "10"), ("/socks", "")):
            worst = 0.0
            for _ in range(TIMES):
                turns.begin()
                await _get(console, page)
                worst = max(worst, turns.longest)
            rows.append((f"{page}, {PARKED} parked, {NODES} nodes: longest turn of the loop", worst * 1000, "ms", target))
        watching.cancel()
    finally:
        crowd.kill()
        await crowd.wait()
        await server.close()
    return rows


def status() -> Iterator[Row]:
    """A scrape of /metrics and the status page."""
    port, console = peers.free_port(), peers.free_port()
    nodes = "\n".join(f"  POOL app ADD 127.0.{number // 250}.1:{1000 + number}" for number in range(NODES))
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(CONF.format(nodes=nodes, port=port, console=console))
        file.flush()
        import uvloop

        yield from uvloop.run(_measured(port, console, file.name))
