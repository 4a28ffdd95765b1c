"""Queries about what is configured: services, pools, plugins, tunables, certificates. Lines: Perlbal manual, Management."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import dropwhile

from pbal.commands.looking.tables import Row, label, opening, table
from pbal.commands.session import Session
from pbal.config.render import render
from pbal.config.spec import NodeSpec
from pbal.model.health import UNTRIED, UP
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.snapshot import snapshot
from pbal.model.telling import statements_or_why
from pbal.roles.proxy.role import ReverseProxy
from pbal.schema.commands import Facts, Item, Objects, Reply, Text, command
from pbal.schema.people import Unit
from pbal.schema.said import Said
from pbal.schema.tunables import Tunable


@command
def show_service(session: Session, service: Service | None = None) -> Reply:
    """List the services, or describe one: who waits, its nodes, its plugins, the rules of a selector's, and what was SET.

    Of a selector with more than 20 rules the first are told; show rules lists all.
    Source: Perlbal manual, show service. differs: the rows bored, plugins, rule and set.
    """
    if service is not None:
        return _described(session, service)
    services = sorted(session.world.services.values(), key=lambda each: each.name)
    return table(
        "name listen state role",
        [(s.name, _address(s), "ENABLED" if s.enabled else "DISABLED", s.role or None) for s in services],
        lambda row: f"{row[0]} {row[1] or 'not_listening'} {row[2]}",
    )


def _address(service: Service) -> str | None:
    return None if service["listen"] is None else str(service["listen"])


_SHOWN = frozenset({"listen", "role", "pool", "docroot", "plugins"})
"""Tunables that `show service` has a row of its own for."""

_RULES = 20
"""Rules of a selector that `show service` tells."""


def _described(session: Session, service: Service) -> Reply:
    """One service. What Perlbal says comes first, in its order and widths."""
    facts: dict[str, object] = {
        "name": service.name, "listen": _address(service), "role": service.role or None, "enabled": service.enabled,
    }  # fmt: skip
    lines = [f"SERVICE {service.name}", label("listening", facts["listen"] or "--"), label("role", service.role or "--")]
    proxying = service.role == "reverse_proxy"
    handler = service.handler if proxying else None
    if proxying or service.role == "web_server":
        pending = [(backend.node.name, backend) for name, backend in opening(session) if name == service.name]
        now = session.world.second
        waiting, _, bored = (0, 0, 0) if handler is None else handler.load()
        facts["pending_clients"] = waiting
        facts["pending_backends"] = [{"node": name, "state": each.state, "age": now - each.born} for name, each in pending]
        lines += [label("pend clients", facts["pending_clients"]), label("pend backend", len(pending))]
        lines += [f"   {name} - {each.state} - {now - each.born}s" for name, each in pending]
    more: list[str] = []
    if proxying:
        lines += _cached(service, facts)
        facts["bored"], facts["connect_ahead"] = bored, service.values.get("connect_ahead") or 0
        lines.append(label("connect-ahead", f"{bored}/{facts['connect_ahead']}"))
        more.append(label("bored", bored))
        if service["pool"]:
            pool = service.world.pool(service["pool"])
            members = [_node(row) for row in _nodes(pool, service.world.clock.now())]
            facts["pool"], facts["nodes"] = pool.name, members
            lines += [label("pool", pool.name), f"{'nodes':>14}:"]
            lines += [f"{'':16}{each['node']:<21} {each['requests']:>7}{_unwell(each['state'])}" for each in members]
    if service.role == "web_server":
        facts["docroot"] = service.shown("docroot") or None
        lines.append(f"{'docroot':>15}: {facts['docroot'] or '--'}")  # one wider than the others, in Perlbal too
    if service.plugins:
        names = [name for name, _ in service.plugins]
        facts["plugins"] = names
        more.append(label("plugins", " ".join(names)))
    if service.role == "selector":
        rules = [line for name, plugin in service.plugins for line in statements_or_why(service, name, plugin)]
        facts["rules"], facts["rule_count"] = rules[:_RULES], len(rules)
        more += [label("rule", line) for line in rules[:_RULES]]
        if len(rules) > _RULES:
            more.append(label("rules", f"{len(rules)}: show rules {service.name} lists them all"))
    said = {name: service.shown(name) for name in sorted(service.explicit.keys() - _SHOWN)}
    facts["set"] = said
    more += [label("set", f"{name} = {text}") for name, text in said.items()]
    return Facts(facts, [*lines, *more], {"age": Unit.SECONDS, **_AGES})


def _cached(service: Service, facts: dict[str, object]) -> list[str]:
    """The lines of the cache of X-REPROXY-CACHE-FOR, where there is one."""
    handler = service.handler
    cache = handler.reproxy.cache if isinstance(handler, ReverseProxy) and handler.reproxy is not None else None
    if cache is None:
        return []
    facts["cache"] = {"size": len(cache), "most": cache.most, "hits": cache.hits, "lookups": cache.lookups}
    return [
        label("cache size", f"{len(cache)}/{cache.most} ({len(cache) / cache.most:.2%})"),
        label("cache hits", cache.hits),
        label("cache hit rate", f"{cache.hits / max(1, cache.lookups):.2%}"),
    ]


@command
def show_pool(session: Session, pool: Pool | None = None) -> Reply:
    """List the pools, or the nodes of one pool with the number of requests that each got.

    After the number stands the state of a node that is not well, DOWN, DRAIN, MAINT or REMOVED, and the requests in progress; then the
    options of POOL ADD. More is in `show health`.
    Of each pool `usable` is the number of nodes that new requests go to.
    Source: Perlbal manual, show pool. differs: the state, the options; usable.
    """
    if pool is not None:
        return table(_COLUMNS, list(_nodes(pool, session.world.clock.now())), _node_line, units=_AGES)
    items = []
    for each in sorted(session.world.pools.values(), key=lambda one: one.name):
        users = sum(1 for s in session.world.services.values() if each.name in s.pools())
        usable = len(each.usable(session.world.clock.now()))
        lines = [f"{each.name} nodes {len(each.nodes)}", f"{each.name} services {users}", f"{each.name} usable {usable}"]
        file = session.world.nodefiles.of(each)
        if file is not None:
            lines.append(f"{each.name} nodefile {file.path}")
        if file is not None and file.error:
            lines.append(f"{each.name} nodefile error: {file.error}")
        told = {"nodefile": None if file is None else str(file.path), "error": None if file is None else file.error or None}
        items.append(Item({"pool": each.name, "nodes": len(each.nodes), "services": users, "usable": usable, **told}, tuple(lines)))
    return Objects(items)


_COLUMNS = "node requests active state since why weight backup max"
_AGES = {"since": Unit.SECONDS}


def _nodes(pool: Pool, now: float) -> Iterator[Row]:
    for node in (*pool.nodes, *pool.draining):
        word, since, why, _ = node.verdict(now)
        age = int(now - since) if since else None
        yield node.name, node.requests, node.active, word, age, why or None, node.weight, node.backup, node.most or None


def _node(row: Row) -> dict[str, object]:
    return dict(zip(_COLUMNS.split(), row, strict=True))


def _node_line(row: Row) -> str:
    """Perlbal's two columns, and for a node that is not well or was removed its state, and how many requests run there."""
    name, requests, active, state, _, _, weight, backup, most = row
    unwell = _unwell(state)
    options = NodeSpec(name, weight, backup, most or 0).options
    return f"{name} {requests}{unwell}{f' {active}' if unwell else ''}{f' {options}' if options else ''}"


def _unwell(state: object) -> str:
    """The state of a node that scripts, which know two columns, should hear of."""
    return "" if state in (UP, UNTRIED) else f" {state}"


@command
def plugins(session: Session) -> Reply:
    """List the plugins of each service that has some, in their order. SHOW PLUGINS tells all of them.

    Source: Perlbal manual, plugins.
    """
    return table("service plugins", _chains(session), lambda row: f"{row[0]} {' '.join(row[1])}")


def _chains(session: Session) -> list[Row]:
    return [(s.name, tuple(name for name, _ in s.plugins)) for s in session.world.services.values() if s.plugins]


@command
def show_plugins(session: Session) -> Reply:
    """List the plugins of each service, in the order of their hooks. Then list each loaded plugin: version, generation, faults, services
    and file, and each of its hooks with how often it was called, the time that it took in all, and its longest call.

    Source: Perlbal manual, plugins. differs: the loaded plugins.
    """
    items = []
    for each in session.world.plugins.values():
        services = [service for service, names in _chains(session) if each.name in names]
        services += session.world.of_role([own.role.name for own in each.plugin_class.conversations])
        hooks = [
            {"hook": hook, "calls": timing.calls, "ms": round(timing.seconds * 1000, 3), "slowest_ms": round(timing.slowest * 1000, 3)}
            for hook, timing in each.timings.items()
        ]
        out = {s.name: s.out[each.name][1] for s in session.world.services.values() if each.name in s.out}
        value = {
            "plugin": each.name, "version": each.version, "generation": each.generation, "errors": each.errors, "services": services,
            "path": each.path, "hooks": hooks, "out": out, "previous": each.former is not None,
        }  # fmt: skip
        first = f"loaded {each.name} version {each.version or '-'} generation {each.generation} errors {each.errors}"
        lines = [f"{first} services {','.join(services) or '-'} {each.path}"]
        lines += [f"hook {each.name} {hook['hook']} calls {hook['calls']} ms {hook['ms']} slowest {hook['slowest_ms']}" for hook in hooks]
        back = f"RELOAD {each.name} brings it back"
        if each.former is not None:
            back += f", and RELOAD PREVIOUS {each.name} goes back to its files before they changed"
        lines += [f"out {each.name} {service}: {why}. {back}" for service, why in out.items()]
        items.append(Item(value, tuple(lines)))
    return Objects(items, header=tuple(f"{service} {' '.join(names)}" for service, names in _chains(session)))


@command
def show_certificates(session: Session) -> Reply:
    """The certificates in use: for what names, by whom, whole days left, and where they come from."""
    now = datetime.now(UTC)
    rows: list[Row] = [
        (service.name, each.days_left(now), f"{each.ends:%Y-%m-%d}", each.kind, each.names, each.issuer, str(each.file))
        for service in session.world.services.values()
        if service.certificates is not None
        for each in service.certificates.all
    ]
    return table(
        "service days ends key names issuer file",
        rows,
        lambda row: f"{row[0]} {row[1]} {row[2]} {row[3]} {','.join(row[4]) or '-'} {row[5]} {row[6]}",
    )


@command
def show_tunables(session: Session, service: Service | None = None) -> Reply:
    """Show every tunable, with its value on a service, the default in force (see SERVER compatible), and whether the value is another."""
    return _tunables(session, service, changed_only=False)


@command
def show_tunables_changed(session: Session, service: Service) -> Reply:
    """Show the tunables of a service whose values are not their defaults."""
    return _tunables(session, service, changed_only=True)


def _tunables(session: Session, service: Service | None, changed_only: bool) -> Reply:
    items = []
    for tunable in sorted(session.world.tunables.values(), key=lambda each: each.name):
        if service is not None and not tunable.fits(service.role):
            continue
        value = None if service is None else service.values[tunable.name]
        default = session.world.settings.standard(tunable)
        usual = _text(tunable, None if default is None else session.world.settings.parsed(tunable, default))
        text = "" if service is None else service.shown(tunable.name) or _text(tunable, None)
        changed = service is not None and text != usual
        if changed_only and not changed:
            continue
        said = None if service is None else service.explicit.get(tunable.name, service.defaults.get(tunable.name))
        hidden = service is None or isinstance(said, Said)
        plain = value if not hidden and isinstance(value, (bool, int, float)) else text or None
        facts = {"tunable": tunable.name, "value": plain, "text": text or None, "default": default or None, "changed": changed}
        line = f"{tunable.name} {text or '-'} {default or '-'} {'changed' if changed else 'default'} {tunable.summary}"
        items.append(Item({**facts, "summary": tunable.summary}, (line,)))
    seen = ("tunable", "text", "default", "summary") if changed_only else ("tunable", "text", "default", "changed", "summary")
    return Objects(items, seen=seen)


def _text(tunable: Tunable, value: object) -> str:
    """A value as SET takes it. What is nothing may have a word for it, such as `off`."""
    if value is not None:
        return tunable.type.render(value)
    return tunable.default if tunable.default is not None and tunable.default_value() is None else ""


@command
def dumpconfig(session: Session) -> Reply:
    """Print a configuration that makes this state again.

    Source: Perlbal manual, dumpconfig. differs: complete, in an order that loads.
    """
    return Text(dropwhile(lambda line: not line, render(snapshot(session.world), session.world.fits)), end_dot=False)
