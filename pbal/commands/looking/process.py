"""Queries about the process: its age, its times, its descriptors, its counters. Shapes of lines: Perlbal manual, Management."""

import asyncio
import os
import resource
from fnmatch import fnmatchcase

from pbal import __version__, build
from pbal.commands.looking.tables import Row, open_sockets, table
from pbal.commands.session import Session
from pbal.model.measures import shown
from pbal.observe.memory import resident_bytes
from pbal.schema.commands import Reply, command


@command
def show_counters(session: Session, glob: str | None = None) -> Reply:
    """Show the counters and their values: all, or those LIKE a pattern."""
    rows = ((name, value) for name, value in shown(session.world) if glob is None or fnmatchcase(name, glob))
    return table("counter value", rows)


@command
def uptime(session: Session) -> Reply:
    """Show when pbal started, for how many seconds it has run, its version, and whether its hot path is compiled.

    Source: Perlbal manual, uptime. differs: the row `build`.
    """
    world = session.world
    rows: list[Row] = [("starttime", int(world.started)), ("uptime", int(world.clock.now() - world.started_at))]
    return table("key value", [*rows, ("version", __version__), ("build", build.kind())])


@command
def version(session: Session) -> Reply:
    """The same as uptime.

    Source: Perlbal manual, version.
    """
    return uptime(session)


@command
def proc(session: Session) -> Reply:
    """Show figures of the process, and how they changed since the previous `proc` of this connection.

    Source: Perlbal manual, proc.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    now = (usage.ru_utime, usage.ru_stime, session.world.counters.counts["requests"])
    before = session.proc or (0.0, 0.0, 0)
    session.proc = now
    rows: list[Row] = [
        ("time", int(session.world.clock.epoch()), None),
        ("pid", os.getpid(), None),
        ("utime", round(now[0], 3), round(now[0] - before[0], 3)),
        ("stime", round(now[1], 3), round(now[1] - before[1], 3)),
        ("reqs", now[2], now[2] - before[2]),
        ("rss_kb", resident_bytes() // 1024, None),
    ]
    return table("key value delta", rows, lambda row: f"{row[0]}: {row[1]}" + (f" (+{row[2]})" if row[2] is not None else ""))


@command
async def fd(session: Session) -> Reply:
    """Show the limit of open files, and how many are open.

    Source: Perlbal manual, fd.
    """
    try:
        used = os.stat("/proc/self/fd").st_size  # the number of them, since Linux 6.2
        if not used and session.live:  # to list fifteen thousand takes too long to do it here
            used = len(await asyncio.get_running_loop().run_in_executor(None, os.listdir, "/proc/self/fd")) - 1
    except OSError:
        used = len([thing async for thing in open_sockets(session)])
    return table("key value", [("max", resource.getrlimit(resource.RLIMIT_NOFILE)[0]), ("cur", used)])
