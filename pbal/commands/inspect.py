"""Everything that only looks. Shapes of lines: Perlbal manual, Management; rows carry the same as named columns."""

import asyncio
import os
import resource
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import dropwhile
from typing import Any

from pbal import __version__, build
from pbal.commands.session import Session
from pbal.config.render import render
from pbal.model.pool import Node, Pool
from pbal.model.service import Service
from pbal.model.snapshot import snapshot
from pbal.observe.memory import resident_bytes
from pbal.schema.commands import Reply, Rows, Text, command
from pbal.schema.types import Endpoint

Row = tuple[Any, ...]

PIECE = 200
"""Sockets looked at in one turn of the loop: about a millisecond's work."""


def _table(columns: str, rows: Any, line: Callable[[Row], str] = lambda row: " ".join(map(str, row)), **more: Any) -> Rows:
    return Rows(tuple(columns.split()), rows, line, **more)


async def _sockets(session: Session) -> AsyncIterator[Any]:
    """Every open socket; each has `kind` and `describe`.

    They come PIECE in a turn of the loop, so that ten thousand hold nobody up; those that close meanwhile are left out.
    """
    world = session.world
    listeners = world.runtime.listeners() if world.runtime is not None else []
    for number, thing in enumerate((*listeners, *world.clients, *world.backends), 1):
        if getattr(thing, "state", "") != "closed":
            yield thing
        if number % PIECE == 0:
            await asyncio.sleep(0)


@command
def show_service(session: Session, service: Service | None = None) -> Reply:
    """List the services, or describe one, with its plugins and what was SET.

    Source: Perlbal manual, show service. differs: the rows plugins and set.
    """
    if service is not None:
        return _table("key value requests", list(_service_facts(service)), _fact_line, head=(f"SERVICE {service.name}",))
    services = sorted(session.world.services.values(), key=lambda each: each.name)
    return _table(
        "name listen state role",
        [(s.name, s["listen"] or "not_listening", "ENABLED" if s.enabled else "DISABLED", s.role) for s in services],
        lambda row: " ".join(map(str, row[:3])),
    )


_SHOWN = frozenset({"listen", "role", "pool", "docroot", "plugins"})
"""Tunables that `show service` has a row of its own for."""


def _service_facts(service: Service) -> Iterator[Row]:
    yield "listening", service["listen"] or "--", None
    yield "role", service.role or "--", None
    handler: Any = service.handler
    if service.role == "reverse_proxy":
        bored = sum(map(len, handler.bored.values())) if handler is not None else 0
        yield "pend clients", len(handler.waiting) if handler is not None else 0, None
        yield "pend backend", handler.connecting if handler is not None else 0, None
        yield "bored", bored, None
        pool = service["pool"]
        if pool:
            yield "pool", pool, None
            yield "nodes", len(service.world.pool(pool).nodes), None
            for node in service.world.pool(pool).nodes:
                yield "node", node.name, node.requests
    if service.role == "web_server":
        yield "docroot", service["docroot"] or "--", None
    if service.plugins:
        yield "plugins", " ".join(name for name, _ in service.plugins), None
    for name in sorted(service.explicit.keys() - _SHOWN):
        yield "set", f"{name} = {service.world.tunables[name].type.render(service.values[name])}", None


def _fact_line(row: Row) -> str:
    """Perlbal's block: key and value, and under `nodes:` a line for each."""
    key, value, requests = row
    if key == "node":
        return f"{'':16}{value:<21} {requests:>7}"
    return f"{key:>14}:" + (f" {value}" if key != "nodes" else "")


@command
def show_pool(session: Session, pool: Pool | None = None) -> Reply:
    """List the pools, or the nodes of one pool with the number of requests that each got.

    After the number stands `down` if the last attempt to connect failed, `draining` if the node was removed; and the requests in progress.
    Source: Perlbal manual, show pool. differs: the state.
    """
    if pool is not None:
        nodes = [(n.name, n.requests, n.active, "down" if n.down else "up") for n in pool.nodes]
        nodes += [(n.name, n.requests, n.active, "draining") for n in pool.draining]
        return _table("node requests active state", nodes, _node_line)
    rows: list[Row] = []
    for each in sorted(session.world.pools.values(), key=lambda one: one.name):
        users = sum(1 for s in session.world.services.values() if s["pool"] == each.name)
        rows += [(each.name, "nodes", len(each.nodes)), (each.name, "services", users)]
    return _table("pool key count", rows)


def _node_line(row: Row) -> str:
    """Perlbal's two columns, and for a node that is not well or was removed its state, and how many requests run there."""
    name, requests, active, state = row
    return f"{name} {requests}" + (f" {state} {active}" if state != "up" else "")


@command
def show_plugins(session: Session) -> Reply:
    """List the plugins of each service, then the loaded plugins with their generations and their faults.

    Source: Perlbal manual, plugins.
    """
    world = session.world
    rows: list[Row] = [(s.name, " ".join(name for name, _ in s.plugins)) for s in world.services.values() if s.plugins]
    rows += [("loaded", f"{each.name} generation {each.generation} errors {each.errors} {each.path}") for each in world.plugins.values()]
    return _table("service plugins", rows)


@command
def show_certificates(session: Session) -> Reply:
    """The certificates in use: for what names, by whom, whole days left, and where they come from."""
    now = datetime.now(UTC)
    rows: list[Row] = [
        (service.name, each.days_left(now), f"{each.ends:%Y-%m-%d}", each.kind, ",".join(each.names) or "-", each.issuer, str(each.file))
        for service in session.world.services.values()
        if service.certificates is not None
        for each in service.certificates.all
    ]
    return _table("service days ends key names issuer file", rows)


@command
def show_counters(session: Session, glob: str | None = None) -> Reply:
    """Show the counters and their values: all, or those LIKE a pattern."""
    counts = sorted(session.world.counters.counts.items())
    return _table("counter value", [(name, value) for name, value in counts if glob is None or fnmatchcase(name, glob)])


@command
def show_tunables(session: Session, service: Service | None = None) -> Reply:
    """Show every tunable, with its value on a service and its default."""
    rows: list[Row] = []
    for tunable in sorted(session.world.tunables.values(), key=lambda each: each.name):
        if service is not None and not tunable.fits(service.role):
            continue
        value = None if service is None else service.values[tunable.name]
        shown = "" if value is None else tunable.type.render(value)
        rows.append((tunable.name, shown or "-", tunable.default or "-", tunable.summary))
    return _table("tunable value default summary", rows)


@command
async def states(session: Session, service: Service | None = None) -> Reply:
    """Show how many connections of each class are in each state.

    Source: Perlbal manual, states.
    """
    kinds = [thing.kind() async for thing in _sockets(session)]
    tally = Tally(kind[:2] for kind in kinds if service is None or kind[2] == service.name)
    return _table("class state count", [(*key, number) for key, number in sorted(tally.items())])


@command
async def socks(session: Session) -> Reply:
    """List every open connection, one per line, in the order of descriptors.

    Source: Perlbal manual, socks.
    """
    infos = sorted([thing.describe() async for thing in _sockets(session)], key=lambda info: info.fd)
    rows = ((info.fd, info.age, info.class_name, info.state, info.service, info.text) for info in infos)
    return _table("fd age class state service text", rows, lambda row: f"{row[0]:5d} {row[1]:5d}s {row[5]}", head=("   fd    age",))


@command
async def socks_summary(session: Session) -> Reply:
    """Show how many connections of each class are open.

    Source: Perlbal manual, socks summary.
    """
    tally: Tally[str] = Tally()
    buffered = 0
    async for thing in _sockets(session):
        tally[thing.kind()[0]] += 1
        buffered += getattr(thing, "unsent_octets", 0)
    tail = ("", f"Aggregate write buffer: {buffered / 1024:.1f}k", f"            Open files: {sum(tally.values())}")
    return _table("count class", [(number, name) for name, number in sorted(tally.items())], lambda row: f"{row[0]:5d} {row[1]}", tail=tail)


@command
def nodes(session: Session, node: Endpoint | None = None) -> Reply:
    """Show what pbal knows of each node. Times are in seconds since 1970.

    Source: Perlbal manual, nodes. differs: connects counts only those that succeeded.
    """
    rows: list[Row] = []
    began = session.world.clock.epoch() - session.world.clock.now()
    for pool in session.world.pools.values():
        for each in pool.nodes:
            if node is not None and each.endpoint != node:
                continue
            rows += [(each.name, f"last{key}", int(began + at)) for key, at in _last(each) if at]
            rows += [
                (each.name, "attempts", each.connects + each.failures),
                (each.name, "connects", each.connects),
                (each.name, "failures", each.failures),
                (each.name, "active", each.active),
                (each.name, "requests", each.requests),
            ]
            rows += [(each.name, f"responsecodes {code}", number) for code, number in sorted(each.responses.items())]
    return _table("node key value", rows)


def _last(node: Node) -> tuple[tuple[str, float], ...]:
    return ("attempt", node.last_attempt), ("connect", node.last_connect), ("response", node.last_response)


@command
def backends(session: Session) -> Reply:
    """Show the number of open connections to each node.

    Source: Perlbal manual, backends.
    """
    tally = Tally(backend.node.name for backend in session.world.backends)
    return _table("node connections", sorted(tally.items()))


@command
def queues(session: Session) -> Reply:
    """Show how many clients wait for a backend of each reverse_proxy, and how many seconds the first has waited.

    Source: Perlbal manual, queues. highpri and lowpri are always empty.
    """
    now = session.world.clock.now()
    rows: list[Row] = []
    for service in session.world.services.values():
        waiting = getattr(service.handler, "waiting", None)
        if service.role != "reverse_proxy":
            continue
        first = next(iter(waiting), None) if waiting else None
        for name, age, count in (
            ("normal", int(now - first.started) if first is not None else 0, len(waiting or ())),
            ("highpri", 0, 0),
            ("lowpri", 0, 0),
        ):
            rows += [(service.name, f"{name}.age", age), (service.name, f"{name}.count", count)]
    return _table("service key value", rows, lambda row: f"{row[0]}-{row[1]} {row[2]}")


@command
def uptime(session: Session) -> Reply:
    """Show when pbal started, for how many seconds it has run, its version, and whether its hot path is compiled.

    Source: Perlbal manual, uptime. differs: the row `build`.
    """
    world = session.world
    rows: list[Row] = [("starttime", int(world.started)), ("uptime", int(world.clock.now() - world.started_at))]
    return _table("key value", [*rows, ("version", __version__), ("build", build.kind())])


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
    return _table("key value delta", rows, lambda row: f"{row[0]}: {row[1]}" + (f" (+{row[2]})" if row[2] is not None else ""))


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
        used = len([thing async for thing in _sockets(session)])
    return _table("key value", [("max", resource.getrlimit(resource.RLIMIT_NOFILE)[0]), ("cur", used)])


@command
def dumpconfig(session: Session) -> Reply:
    """Print a configuration that makes this state again.

    Source: Perlbal manual, dumpconfig. differs: complete, in an order that loads.
    """
    return Text(dropwhile(lambda line: not line, render(snapshot(session.world))), end_dot=False)
