"""Queries about what is configured: services, pools, plugins, tunables, certificates. Shapes of lines: Perlbal manual, Management."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import dropwhile
from typing import Any

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.config.render import render
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.snapshot import snapshot
from pbal.schema.commands import Reply, Text, command


@command
def show_service(session: Session, service: Service | None = None) -> Reply:
    """List the services, or describe one, with its plugins and what was SET.

    Source: Perlbal manual, show service. differs: the rows plugins and set.
    """
    if service is not None:
        return table("key value requests", list(_service_facts(service)), _fact_line, head=(f"SERVICE {service.name}",))
    services = sorted(session.world.services.values(), key=lambda each: each.name)
    return table(
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
        yield "docroot", service.shown("docroot") or "--", None
    if service.plugins:
        yield "plugins", " ".join(name for name, _ in service.plugins), None
    for name in sorted(service.explicit.keys() - _SHOWN):
        yield "set", f"{name} = {service.shown(name)}", None


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
        return table("node requests active state", nodes, _node_line)
    rows: list[Row] = []
    for each in sorted(session.world.pools.values(), key=lambda one: one.name):
        users = sum(1 for s in session.world.services.values() if s["pool"] == each.name)
        rows += [(each.name, "nodes", len(each.nodes)), (each.name, "services", users)]
    return table("pool key count", rows)


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
    return table("service plugins", rows)


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
    return table("service days ends key names issuer file", rows)


@command
def show_tunables(session: Session, service: Service | None = None) -> Reply:
    """Show every tunable, with its value on a service and its default."""
    rows: list[Row] = []
    for tunable in sorted(session.world.tunables.values(), key=lambda each: each.name):
        if service is not None and not tunable.fits(service.role):
            continue
        shown = "" if service is None else service.shown(tunable.name)
        rows.append((tunable.name, shown or "-", tunable.default or "-", tunable.summary))
    return table("tunable value default summary", rows)


@command
def dumpconfig(session: Session) -> Reply:
    """Print a configuration that makes this state again.

    Source: Perlbal manual, dumpconfig. differs: complete, in an order that loads.
    """
    return Text(dropwhile(lambda line: not line, render(snapshot(session.world), session.world.fits)), end_dot=False)
