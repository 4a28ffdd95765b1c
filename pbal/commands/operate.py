"""What an operator asks, one query each: what is slow, which node is down and why, why this got a 502, how full we are, who is connected.

They only read. What takes long with very many connections goes over them in pieces, and so holds nobody up. Where the numbers come from:
model/measures.py for what is declared, observe/recent.py for failures, nodes themselves for their health, Plugin.limits of the plugins.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from heapq import merge
from itertools import islice

from pbal.commands.looking.tables import PIECE, Row, table
from pbal.commands.session import Session
from pbal.lang.mistakes import did_you_mean
from pbal.model.faults import guarded
from pbal.model.health import use_told
from pbal.model.plugin import Plugin
from pbal.model.pool import Node, Pool
from pbal.model.world import Connected, World
from pbal.observe.access import WAITING_OCTETS
from pbal.observe.histogram import Histogram, percentile
from pbal.observe.limits import Limit
from pbal.observe.log import LogWriter
from pbal.observe.memory import memory_limit, resident_bytes
from pbal.observe.recent import Failure
from pbal.schema.commands import CommandError, Reply, command
from pbal.schema.people import Octets, Unit

SHARES = (0.5, 0.9, 0.99)
FEW = 20
"""Histograms whose percentiles are found in one turn of the loop: a few milliseconds' work."""


# -- what is slow ------------------------------------------------------------------------------------------------------


@command
async def show_latency(session: Session, whom: str | None = None) -> Reply:
    """Show how long requests take: how many, and the milliseconds that 50, 90 and 99 of 100 did not exceed.

    Of a service it is the time from the head of a request until the last byte of its answer was written. Of a node it is the time from
    sending it the request to the end of its answer; a slow client adds to that. Both are told since the start and for the last minute.
    What is parked does not count, nor do tunnels. WHOM is the name of a service, a pool or a node. The figures are right to fifteen
    per cent.
    """
    world = session.world
    rows: list[Row] = []
    for kind, pool, name, histogram in list(_histograms(world)):
        if whom is None or whom.lower() in (pool.lower(), name.lower()):
            rows.append((kind, pool, name, *_figures(histogram.since_start()), *_figures(histogram.last_minute())))
            if len(rows) % FEW == 0:
                await asyncio.sleep(0)
    if whom is not None and not rows:
        names = sorted({name for _, pool, name, _ in _histograms(world) for name in (pool, name) if name})
        raise CommandError(f"no service, pool or node is called '{whom}'", "whom", did_you_mean(whom, names))
    columns = "kind pool name count p50 p90 p99 minute_count minute_p50 minute_p90 minute_p99"
    titles = ("count", "p50", "p90", "p99 ms", "minute", "p50", "p90", "p99 ms")
    head = f"{'kind':8}{'name':<32}" + "".join(f"{title:>9}" for title in titles)
    units = dict.fromkeys(columns.split()[4:7] + columns.split()[8:], Unit.MILLISECONDS)
    return table(columns, rows, _latency_line, header=(head,), units=units)


def _histograms(world: World) -> Iterator[tuple[str, str, str, Histogram]]:
    for service in world.services.values():
        if service.handler is not None and service.role != "management":
            yield "service", "", service.name, service.traffic.latency
    for pool in world.pools.values():
        for node in pool.nodes:
            yield "node", pool.name, node.name, node.latency


def _figures(counts: list[int]) -> tuple[float | None, ...]:
    """How many, and the percentiles in milliseconds; None where nothing was counted."""
    number = sum(counts)
    return (number, *[float(f"{percentile(counts, share):.3g}") if number else None for share in SHARES])


def _latency_line(row: Row) -> str:
    kind, pool, name, *figures = row
    shown = "".join(f"{'-' if figure is None else f'{figure:g}':>9}" for figure in figures)
    return f"{kind:8}{f'{pool} {name}'.strip():<32}{shown}"


# -- which node is down and why ----------------------------------------------------------------------------------------


@command
def show_health(session: Session, pool: Pool | None = None) -> Reply:
    """Show the state of each node, since when (seconds), why and by whom, and whether it gets new requests; what went wrong last and how
    long ago, its last success, requests in progress, and what was counted.

    UP: requests are sent to it. UNTRIED: as UP, but nothing was sent yet. DOWN: its checks fail, or it is ejected, on trial or silent, or
    the last attempt to connect failed. DRAIN and MAINT: an operator said so. REMOVED: it is in the pool no more, and requests run on it. A
    node that is DOWN gets requests all the same (`used` is yes) where too few others are left. `check` is what active checks found. A
    success is an answer that is not 5xx.
    """
    world = session.world
    now = world.clock.now()
    pools = [pool] if pool is not None else sorted(world.pools.values(), key=lambda each: each.name)
    rows = (_health(each, node, now) for each in pools for node in (*each.nodes, *each.draining))
    columns = (
        "pool node state since why by used check error error_age last_success active requests errors failures checks check_failures"
        " ejections stalls"
    )
    units = dict.fromkeys(("since", "error_age", "last_success"), Unit.SECONDS)
    seen = ("pool", "node", "state", "since", "why", "by", "used", "check", "error", "error_age", "last_success", "active")
    return table(columns, rows, _health_line, units=units, seen=seen)


def _health(pool: Pool, node: Node, now: float) -> Row:
    used = pool.use(node, now)
    word, since, why, by = node.verdict(now)
    return (
        pool.name, node.name, word, int(now - since) if since else None, why or None, by or None, used,
        node.check if node.checks else None, node.error or None, int(now - node.error_at) if node.error else None,
        int(now - node.last_success) if node.last_success else None, node.active, node.requests, node.errors, node.failures,
        node.checks, node.check_failures, node.ejections, node.stalls,
    )  # fmt: skip


def _health_line(row: Row) -> str:
    (
        pool,
        node,
        state,
        since,
        why,
        by,
        used,
        check,
        error,
        age,
        success,
        active,
        requests,
        errors,
        failures,
        checks,
        bad,
        ejections,
        stalls,
    ) = row
    line = f"{pool} {node} {state}" + (f" for {since}s" if since is not None else "")
    because = f"{by}: {why}" if by and why else by or why
    line += f" ({because})" if because else ""
    line += use_told(state, used)
    line += f", {active} active, {requests} requests, {errors} errors, {failures} connects failed"
    line += f", check {check}: {bad} of {checks} failed" if check else ""
    line += f", ejected {ejections} times" if ejections else ""
    line += f", stalled {stalls} times" if stalls else ""
    line += f", last success {success}s ago" if success is not None else ", no success yet"
    return line + (f", last error {age}s ago: {error}" if error else "")


# -- why did this get 502 ----------------------------------------------------------------------------------------------


@command
def show_errors(session: Session, number: str | None = None, glob: str | None = None) -> Reply:
    """Show the last requests that were refused, failed, or were answered 5xx, the newest last: all of at most 200, or the last NUMBER.

    Each has when it ended, its id, service, client, node, request and status, who ended it and when (as in the access log), the times
    that it was sent to a node, and why. Of a malformed head it has the octet to blame, and its place, from 0. LIKE selects those with a
    matching field; a text without wildcards matches a part. The counter `failures` has their number. Where access_log_query is off, the
    query of the target is left out. What went to a node that was tried before the last one is in `show health`.
    """
    failures: list[Failure] = list(session.world.recent.last)
    if glob is not None:
        pattern = glob if any(wild in glob for wild in "*?[") else f"*{glob}*"
        failures = [each for each in failures if any(fnmatchcase(text, pattern) for text in _texts(each))]
    if number is not None:
        failures = failures[max(0, len(failures) - int(number)) :]
    return table(" ".join(Failure._fields), failures, _failure_line, units={"at": Unit.MOMENT, "seconds": Unit.SECONDS})


def _texts(failure: Failure) -> Iterator[str]:
    for field in failure:
        if field is not None:
            yield str(field)


def _failure_line(row: Row) -> str:
    failure = Failure(*row)
    when = datetime.fromtimestamp(failure.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    line = f"{failure.number} {when}Z {failure.id or '-'} {failure.service} {failure.client} {failure.node or '-'}"
    line += f' "{failure.method} {failure.target}" {failure.status} {failure.end} in {failure.phase}'
    line += f" attempts {failure.attempts} {failure.seconds:.3f}s"
    if failure.why:
        line += f": {failure.why}"
    if failure.octet is not None:
        shown = f" ({chr(failure.octet)!r})" if 0x20 < failure.octet < 0x7F else ""
        line += f" (octet 0x{failure.octet:02X}{shown} at {failure.place})"
    return line


# -- how full are we ---------------------------------------------------------------------------------------------------


@command
async def show_limits(session: Session) -> Reply:
    """Show what may fill up: how much there is, the limit, per cent, and what happens at the limit."""
    rows = [
        (each.what, each.where, *_sizes(each), None if not each.limit else round(100 * each.value / each.limit, 1), each.then)
        for each in [*await _of_process(session.world), *_of_services(session.world), *_of_pools(session.world)]
    ]
    return table("what where value limit percent then", rows, _limit_line)


def _sizes(each: Limit) -> tuple[int, int | None]:
    """How much there is, and the limit."""
    if "bytes" not in each.what.split():
        return each.value, each.limit
    return Octets(each.value), None if each.limit is None else Octets(each.limit)


def _limit_line(row: Row) -> str:
    what, where, value, limit, percent, then = row
    share = f" of {limit} ({percent}%)" if limit is not None else ", no limit"
    return f"{f'{what} {where}'.strip():<40} {value}{share}: {then}"


async def _of_process(world: World) -> list[Limit]:
    runtime = world.runtime
    held = len(world.clients) + len(world.backends)
    found = [Limit("connections", "", held, world.room, "pbal accepts no more connections until some have gone")]
    try:
        files = os.stat("/proc/self/fd").st_size  # the number of them, since Linux 6.2
        if not files and runtime is not None:  # to list fifteen thousand takes too long to do it here
            files = len(await asyncio.get_running_loop().run_in_executor(None, os.listdir, "/proc/self/fd")) - 1
    except OSError:
        files = held
    if runtime is not None:
        found.append(Limit("open files", "", files, runtime.descriptor_limit, "nothing can be opened: nodes, files and stores fail"))
    found.append(Limit("memory bytes", "", resident_bytes(), memory_limit(), "the system ends the process"))
    parked = sum(service.traffic.parked for service in world.services.values())
    found.append(Limit("parked requests", "", parked, None, "connections are the limit"))
    found.append(Limit("requests with plugins", "", len(world.taken), None, "504 after taken_timeout"))
    bodies, server = world.bodies, world.server
    then = "bodies go on as they come, or to disk"
    found.append(Limit("body memory bytes", "", bodies.memory, server["max_body_memory"] or None, then))
    found.append(Limit("spool bytes", "", bodies.spooled, server["max_spool"] or None, "uploads that are to be spooled are answered 503"))
    found.append(Limit("failures kept", "", len(world.recent.last), world.recent.last.maxlen, "the oldest one goes"))
    found += [
        Limit("log lines", "", handler.waiting, handler.most, "lines are dropped, and counted in log_lines_dropped")
        for handler in logging.getLogger().handlers
        if isinstance(handler, LogWriter)
    ]
    targets = {service.access.target for service in world.services.values() if service.access is not None}
    found += [
        Limit(
            "access log bytes", each.name, each.put - each.taken, WAITING_OCTETS, "lines are dropped, and counted in access_lines_dropped"
        )
        for each in sorted(targets, key=lambda target: target.name)
    ]
    return found


def _of_services(world: World) -> Iterator[Limit]:
    for service in world.services.values():
        if service.handler is not None and service.role == "reverse_proxy":
            waiting, _, bored = service.handler.load()
            most = service["queue_size"] or None
            yield Limit("clients waiting", service.name, waiting, most, "503 at once" if most else "503 after queue_timeout")
            yield Limit("bored connections", service.name, bored, service["backend_persist_cache"], "those that rested longest are closed")
        for limit in service.limiting:
            then = f"{limit.refusals} requests were {'over it' if limit.dry else 'refused'}"
            if limit.most is not None:
                then += "; if there are too many clients, the one that came longest ago is forgotten"
            yield Limit("clients of LIMIT", f"{service.name} {limit.said}", limit.clients, limit.most, then)
        if service.opened:
            for name, plugin in service.plugins:
                yield from _told(world, name, plugin)


def _of_pools(world: World) -> Iterator[Limit]:
    for pool in world.pools.values():
        yield Limit("requests sent again", pool.name, pool.retrying, pool.retry_room, "a failure goes to the client (retry_budget)")
        for node in pool.nodes:
            if node.limit:
                used = node.active + node.connecting
                yield Limit("connections in use", f"{pool.name} {node.name}", used, node.limit, "requests wait (MAX, node_max_connections)")


def _told(world: World, name: str, plugin: Plugin) -> list[Limit]:
    """What a plugin says may fill up; a fault in it is reported, and hides no other limit."""
    found: list[Limit] = []

    def limits() -> None:
        found.extend(Limit(*each) for each in plugin.limits())

    guarded(world, name, limits)
    return found


# -- who is connected --------------------------------------------------------------------------------------------------


@command
async def show_clients(session: Session, glob: str | None = None) -> Reply:
    """Show who is connected: address, connections, how many of them are parked, requests on them, and the age of the oldest (seconds).

    The address is that at the other end of the connection. The most connected come first. LIKE selects addresses.
    """
    world = session.world
    tally: dict[str, list[int]] = {}
    for number, client in enumerate(list(world.clients), 1):
        _add(tally, client, world.second)
        if number % PIECE == 0:
            await asyncio.sleep(0)
    pieces: list[list[Row]] = []
    every = iter(tally.items())
    while some := list(islice(every, PIECE)):
        chosen = [(address, *numbers) for address, numbers in some if glob is None or fnmatchcase(address, glob)]
        pieces.append(sorted(chosen, key=_most_first))
        await asyncio.sleep(0)
    rows = merge(*pieces, key=_most_first)
    columns = "address connections parked requests oldest"
    return table(columns, rows, lambda row: f"{row[0]} connections {row[1]} parked {row[2]} requests {row[3]} oldest {row[4]}s")


def _most_first(row: Row) -> tuple[int, str]:
    return -row[1], row[0]


def _add(tally: dict[str, list[int]], client: Connected, second: int) -> None:
    if client.state == "closed":
        return
    peer: bytes | None = getattr(client, "peer", None)
    if peer:
        address = peer.decode("ascii", "replace")
    else:
        name: str = client.peer_name
        address = name.rpartition(":")[0] or name  # who comes by a Unix socket has no port
    numbers = tally.setdefault(address, [0, 0, 0, 0])
    numbers[0] += 1
    numbers[1] += client.state == "parked"
    numbers[2] += client.requests
    numbers[3] = max(numbers[3], second - client.born)
