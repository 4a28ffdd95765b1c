"""Queries about the process: its age, its times, its descriptors, its counters. Shapes of lines: Perlbal manual, Management."""

import asyncio
import os
import resource
from fnmatch import fnmatchcase

from pbal import __version__, build
from pbal.commands.looking.tables import PIECE, open_sockets
from pbal.commands.session import Session
from pbal.model.measures import shown
from pbal.observe.memory import resident_bytes
from pbal.schema.commands import Facts, Reply, command
from pbal.schema.people import Unit


@command
async def show_counters(session: Session, glob: str | None = None) -> Reply:
    """Show the counters and their values: all, or those LIKE a pattern."""
    facts: dict[str, object] = {}
    for number, (name, value) in enumerate(shown(session.world), 1):
        if glob is None or fnmatchcase(name, glob):
            facts[name] = value
        if number % PIECE == 0:
            await asyncio.sleep(0)
    return Facts(facts)


@command
def uptime(session: Session) -> Reply:
    """Show when pbal started, for how many seconds it has run, its version, and whether its hot path is compiled.

    Source: Perlbal manual, uptime. differs: the row `build`.
    """
    world = session.world
    facts: dict[str, object] = {"starttime": int(world.started), "uptime": int(world.clock.now() - world.started_at)}
    facts |= {"version": __version__, "build": build.kind()}
    return Facts(facts, units={"starttime": Unit.MOMENT, "uptime": Unit.SECONDS})


@command
def version(session: Session) -> Reply:
    """The same as uptime.

    Source: Perlbal manual, version.
    """
    return uptime(session)


@command
def proc(session: Session) -> Reply:
    """Show figures of the process, and how they changed since the previous `proc`, of whichever console.

    Source: Perlbal manual, proc. differs: the row rss_kb.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    now = {"utime": round(usage.ru_utime, 6), "stime": round(usage.ru_stime, 6), "reqs": session.world.counters.counts["requests"]}
    before, session.interpreter.proc_before = session.interpreter.proc_before, now
    delta = {name: round(value - before.get(name, 0), 6) for name, value in now.items()}
    grown = {name: f"{value:.6f}" if isinstance(value, float) else str(value) for name, value in delta.items()}
    facts: dict[str, object] = {"time": int(session.world.clock.epoch()), "pid": os.getpid(), **now, "rss_kb": resident_bytes() // 1024}
    lines = [f"{name}: {value}" + (f" (+{grown[name]})" if name in grown else "") for name, value in facts.items()]
    return Facts({**facts, "delta": delta}, lines, {"time": Unit.MOMENT})


@command
async def fd(session: Session) -> Reply:
    """Show the limit of open files, and how many are open.

    Source: Perlbal manual, fd.
    """
    return Facts({"max": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "cur": await open_descriptors(session)})


async def open_descriptors(session: Session) -> int:
    """How many descriptors the process has open; only sockets where the system does not tell."""
    try:
        used = os.stat("/proc/self/fd").st_size  # the number of them, since Linux 6.2
        if not used and session.live:  # to list fifteen thousand takes too long to do it here
            used = len(await asyncio.get_running_loop().run_in_executor(None, os.listdir, "/proc/self/fd")) - 1
    except OSError:
        used = len([thing async for thing in open_sockets(session)])
    return used
