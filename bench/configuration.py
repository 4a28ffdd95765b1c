"""A configuration of ten thousand lines: how long `pbal check` takes, and how long RELOAD CONFIG holds the loop for one change in it.

The loop is watched as bench/status.py does it: the longest turn, in time of this thread's processor.
"""

import asyncio
import contextlib
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.status import Turns

Row = tuple[str, float, str, str]
LINES = 10_000
POOLS = 100
TIMES = 5


def text(front: int, console: int) -> str:
    """A selector with a VHOST for each of some thousand services, pools behind them, a console."""
    lines = ["SERVER graceful_timeout = 20s", "LOAD vhosts", "LOAD poll"]
    for number in range(POOLS):
        lines += [f"CREATE POOL p{number}", *(f"  POOL p{number} ADD 10.{number}.{node}.1:8080" for node in range(5))]
    rules: list[str] = []
    while len(lines) + len(rules) < LINES - 9:
        name = f"s{len(rules)}"
        lines += [
            f"CREATE SERVICE {name}", "  SET role = reverse_proxy", f"  SET pool = p{len(rules) % POOLS}", "  SET persist_backend = on",
            f"  SET idle_timeout = {30 + len(rules) % 7}s", "  SET buffer_size = 128k", f"  HEADER {name} INSERT X-Service: {name}",
            f"ENABLE {name}",
        ]  # fmt: skip
        rules.append(f"  VHOST h{len(rules)}.example.com = {name}")
    lines += ["CREATE SERVICE front", "  SET role = selector", f"  SET listen = 127.0.0.1:{front}", "  SET plugins = vhosts", *rules]
    lines += ["ENABLE front", "CREATE SERVICE mgmt", "  SET role = management", f"  SET listen = 127.0.0.1:{console}", "ENABLE mgmt"]
    return "\n".join(lines) + "\n"


async def _reloaded(path: Path) -> float:
    """The longest turn of the loop while the file is read again, in seconds; the worst of some."""
    from pbal.commands.interpreter import Interpreter
    from pbal.commands.session import Session
    from pbal.model.world import World
    from pbal.server import Server

    world = World()
    interpreter = Interpreter(world)
    mistakes = interpreter.run_file(str(path))
    if mistakes:
        raise RuntimeError("\n".join(mistake.render() for mistake in mistakes))
    server = Server(world, interpreter)
    server.start()
    turns = Turns()
    watching = asyncio.ensure_future(turns.watch())
    session = Session(world, interpreter, origin="bench")
    worst = 0.0
    try:
        said = path.read_text()  # noqa: ASYNC240 - nobody else is there
        gc.collect()
        gc.freeze()
        gc.set_threshold(20000, 20, 50)  # as pbal has it
        for number in range(TIMES):
            path.write_text(  # noqa: ASYNC240
                said.replace("SERVER graceful_timeout = 20s", f"SERVER graceful_timeout = {number + 1}s")
            )
            await asyncio.sleep(0.1)
            turns.begin()
            await interpreter.execute(session, "RELOAD CONFIG")
            await asyncio.sleep(0)
            worst = max(worst, turns.longest)
            if world.server["graceful_timeout"] != number + 1:
                raise RuntimeError("the change is not in force")
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await server.close()
    return worst


def configuration() -> Iterator[Row]:
    """Of `pbal check`, and of RELOAD CONFIG."""
    import uvloop

    with tempfile.TemporaryDirectory(prefix="pbal-bench-") as folder:
        path = Path(folder) / "large.conf"
        path.write_text(text(peers.free_port(), peers.free_port()))
        lines = path.read_text().count("\n")
        took: list[float] = []
        for _ in range(TIMES):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "pbal", "check", str(path)], check=True, capture_output=True)
            took.append(time.perf_counter() - began)
        yield f"pbal check of {lines} lines, whole process (best of {TIMES})", min(took), "s", "0.5"
        longest = uvloop.run(_reloaded(path))
        yield f"RELOAD CONFIG of {lines} lines, one change: longest turn (worst of {TIMES})", longest * 1000, "ms", "20"
