"""What is legal in a configuration and most likely wrong: the warnings of `pbal check`, which a start writes to the log.

Two kinds. What shows in one statement (a tunable set twice, a value that was taken but is odd) is told whatever else the file holds. What
only the whole shows (a pool that nobody uses, a service that nothing reaches) is told of files without mistakes: in others, what is missing
may stand in what was refused.

A check is a function from the Places of a file to Findings, and stands in CHECKS. It reads the World and changes nothing, and
looks at files and rights only where it has to: what it finds holds for who runs it.
"""

import logging
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pbal.config.spec import Standing
from pbal.lang.ast import Statement
from pbal.lang.mistakes import Mistake, Place, Second, positioned
from pbal.model import telling
from pbal.model.errors import ConfigError
from pbal.model.nodefile import path_of, read
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.world import World
from pbal.schema.commands import CommandError
from pbal.schema.kinds import Severity
from pbal.schema.management import is_local, risks
from pbal.schema.pools import OF_POOLS
from pbal.schema.types import ENDPOINT, Endpoint

Object = tuple[str, str]
"""What kind of object, and its name in lower case."""

_COUNTED = frozenset({"connections", "polls"})
"""Units of tunables that limit what takes a descriptor each."""
_EVERY_PATH = frozenset({"", "/", "^/", ".", "^", ".*", "^.*", "^/.*", ".*$", "^.*$"})
_EVERY_RULE = {"vhosts": ("vhost", "*"), "vpaths": ("vpath", "")}
"""The rule of a selector's plugin that takes every request, as Places.first has it."""
_BEGINNING = re.compile(r"\^(?:[\w/~,;:@=&%!-]|\\[^\w])*", re.ASCII)
"""A pattern that says what a path begins with, and nothing else."""
_GROUPED = re.compile(r"\\.|\[\^?\]?[^\]]*\]|\((?:[^()|]|\|)*\)")
"""Groups without groups in them, and what could look like one: a `|` outside of these may be the whole pattern's."""
_CAP_NET_BIND_SERVICE = 10  # linux/capability.h
_REQUIRED = 3
"""Bits of ssl_verify_mode: without either of them a client may come without a certificate."""
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_STATUS = Path("/proc/self/status")


class Places:
    """Where things were said in a file, the last time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made: dict[Object, Statement] = {}
        """CREATE, by kind of object and name."""
        self.enabled: dict[str, Statement] = {}
        """ENABLE, by service."""
        self.set: dict[tuple[str, str, str], Statement] = {}
        """SET, by kind of object, name and tunable; SERVER by ("server", "", tunable)."""
        self.nodes: dict[tuple[str, Endpoint], Statement] = {}
        """POOL ADD, by pool and node."""
        self.rules: dict[str, list[Statement]] = {}
        """VHOST and VPATH, by selector."""
        self.first: dict[tuple[str, str, str], Statement] = {}
        """The rule that counts, by selector, kind and pattern; a VPATH for every path by ''."""

    def service(self, service: Service) -> Statement | None:
        """Where a service was made."""
        return self.made.get(("service", service.name.lower()))

    def tunable(self, service: Service, tunable: str) -> Statement | None:
        """Where a tunable of a service was SET; where the service was made, if it was not."""
        return self.set.get(("service", service.name.lower(), tunable)) or self.service(service)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something odd: the statement, what is odd, and another statement that it is odd beside."""

    statement: Statement
    message: str
    beside: Statement | None = None

    def warning(self) -> Mistake:
        """For people, with its place."""
        beside = self.beside
        second = None if beside is None else Second("said here", Place(beside.file, beside.line, *beside.extent))
        error = CommandError(self.message, _AT_FAULT.get(self.statement.rule))
        warning = positioned(error, self.statement)
        warning.severity, warning.second = Severity.WARNING, second
        return warning


Found = Iterator[Finding]

_AT_FAULT = {
    "create_service": "new_name", "create_pool": "new_name", "enable": "service_name", "set": "tunable", "server_set": "server_tunable",
    "pool_add": "node", "vhost": "pattern", "vpath": "regex",
}  # fmt: skip
"""The argument of a statement that is underlined."""


MOST_LOGGED: Final = 50
"""Mistakes, and warnings, of a file that the log has: of a wrong file there are as many as lines, and each costs every client its time."""


def log_odd(log: logging.Logger, warnings: Sequence[Mistake]) -> None:
    """Write warnings of a file to the log, as a start and RELOAD CONFIG do."""
    for odd in warnings[:MOST_LOGGED]:
        log.warning("%(file)s:%(line)d: %(text)s", {"event": "configuration_odd", "file": odd.file, "line": odd.line, "text": odd.message})
    left = len(warnings) - MOST_LOGGED
    if left > 0:
        log.warning("%(number)d more warnings: pbal check --all lists them", {"event": "configuration_odd_more", "number": left})


class Lint:
    """The warnings of one file."""

    def __init__(self, world: World) -> None:
        self.places = Places(world)
        self._found: list[Finding] = []
        self._files: dict[str, int] = {}
        """Files, in the order in which they were read."""

    def note(self, statement: Statement, current: object) -> None:
        """A statement was carried out; `current` is the object that it is about if it names none."""
        self._files.setdefault(statement.file, len(self._files))
        step = _STEPS.get(statement.rule)
        if step is not None:
            self._found += step(self.places, statement, current)

    def warnings(self, told: list[Mistake], whole: bool) -> list[Mistake]:
        """Every warning, `told` by statements themselves or found, once, in order. `whole`: the file has no mistake."""
        found = list(self._found)
        if whole:
            for check in CHECKS:
                found += check(self.places)
        every = {(each.file, each.line, each.message): each for each in (*told, *(finding.warning() for finding in found))}
        return sorted(every.values(), key=lambda each: (self._files.get(each.file, 0), each.line))


# --- what shows in one statement ---------------------------------------------------------------------------


def _of(statement: Statement, current: object, tunable: str) -> tuple[str, str]:
    """Kind and name of the object that a SET is about."""
    name = statement.get("object_name") or _name(current)
    kind = "service" if isinstance(current, Service) else "pool"
    return ("pool" if tunable in OF_POOLS else kind), name.lower()


def _name(current: object) -> str:
    return current.name if isinstance(current, Service | Pool) else ""


def _said(places: Places, key: tuple[str, str, str], statement: Statement, what: str) -> Found:
    before = places.set.get(key)
    places.set[key] = statement
    if before is not None and before.get("value") != "none":
        yield Finding(statement, f"{what} was said before, and this one counts", before)


def _made(places: Places, statement: Statement, current: object) -> Found:
    places.made[statement.rule.removeprefix("create_"), statement["new_name"].lower()] = statement
    return iter(())


def _enabled(places: Places, statement: Statement, current: object) -> Found:
    places.enabled[statement["service_name"].lower()] = statement
    return iter(())


def _set(places: Places, statement: Statement, current: object) -> Found:
    tunable = statement["tunable"].lower()
    named = statement.get("object_name")
    if named is not None:
        current = places.world.services.get(named.lower()) or places.world.pools.get(named.lower())
    kind, name = _of(statement, current, tunable)
    return _said(places, (kind, name, tunable), statement, f"SET {_name(current)}.{tunable}")


def _server(places: Places, statement: Statement, current: object) -> Found:
    tunable = statement["server_tunable"].lower()
    return _said(places, ("server", "", tunable), statement, f"SERVER {tunable}")


def _node_said(statement: Statement) -> str:
    """The node of a statement, whose path begins at the folder of the file."""
    said = statement["node"]
    return ENDPOINT.placed(said, Path(statement.file).resolve().parent) if said.startswith("unix:") else said


def _node(places: Places, statement: Statement, current: object) -> Found:
    key = statement["pool_name"].lower(), ENDPOINT.parse(_node_said(statement))
    before = places.nodes.get(key)
    places.nodes[key] = statement
    if before is not None:
        yield Finding(statement, f"pool '{statement['pool_name']}' has node {key[1]} already", before)


def _rule(places: Places, statement: Statement, current: object) -> Found:
    """VHOST counts last, VPATH first; the other one never gets a request."""
    selector = (statement.get("selector_name") or _name(current)).lower()
    places.rules.setdefault(selector, []).append(statement)
    if statement.rule == "vhost":
        pattern = statement["pattern"]
        before = places.first.get((selector, "vhost", pattern.lower()))
        places.first[selector, "vhost", pattern.lower()] = statement
        if before is not None:
            yield Finding(statement, f"VHOST {pattern} hides the one before, which says {before['target_name']}", before)
        return
    before = _hiding(places, selector, statement["regex"])
    if before is not None:
        yield Finding(statement, f"VPATH {before['regex']} comes first and hides this one", before)
    places.first.setdefault((selector, "vpath", "" if statement["regex"] in _EVERY_PATH else statement["regex"]), statement)


def _hiding(places: Places, selector: str, regex: str) -> Statement | None:
    """An earlier VPATH that takes whatever this one would: for every path, the same, or ^/a before ^/a/b."""
    every = places.first.get((selector, "vpath", "")) or places.first.get((selector, "vpath", regex))
    if every is not None or "|" in _GROUPED.sub("", regex):
        return every
    for end in range(1, len(regex)):
        before = places.first.get((selector, "vpath", regex[:end]))
        if before is not None and _BEGINNING.fullmatch(before["regex"]) and regex[end] not in "?*{":
            return before
    return None


_STEPS: dict[str, Callable[[Places, Statement, object], Found]] = {
    "create_service": _made,
    "create_pool": _made,
    "enable": _enabled,
    "set": _set,
    "server_set": _server,
    "pool_add": _node,
    "vhost": _rule,
    "vpath": _rule,
}


# --- what only the whole shows -----------------------------------------------------------------------------


def _placed(statement: Statement | None, message: str) -> Found:
    """A warning, if the file has the place of it."""
    if statement is not None:
        yield Finding(statement, message)


def targets(service: Service) -> frozenset[str] | None:
    """The services that a selector hands requests to, in lower case; None if one of its plugins cannot say."""
    found = {service["default_service"].lower()} if service["default_service"] else set()
    for name, plugin in service.plugins:
        named = telling.targets(service, name, plugin)
        if named is None:
            if service.hooks.select_service:
                return None
            continue
        found |= {name.lower() for name in named}
    return frozenset(found)


def selected(world: World) -> frozenset[str] | None:
    """The services that some selector, or a plugin of another role, hands requests to, in lower case; None if that cannot be said."""
    found: set[str] = set()
    for service in world.services.values():
        if service.role == "selector":
            named = targets(service)
            if named is None:
                return None
            found |= named
        else:
            found |= {each.lower() for name, plugin in service.plugins for each in telling.targets(service, name, plugin) or ()}
    return frozenset(found)


def pools(places: Places) -> Found:
    """A pool nobody uses; one without nodes."""
    world = places.world
    used = {name.lower() for service in world.services.values() for name in service.pools()}
    for name, pool in world.pools.items():
        if name not in used:
            yield from _placed(places.made.get(("pool", name)), f"no service uses the pool '{pool.name}'")
        elif path_of(pool) is not None:
            yield from _nodefile(places, pool)
        elif not pool.nodes:
            yield from _placed(places.made.get(("pool", name)), f"pool '{pool.name}' has no nodes: requests for it are answered 503")


def balancing(places: Places) -> Found:
    """What is said of hashes that has no effect; a pool whose nodes get nothing."""
    world = places.world
    hashing = {service["pool"].lower() for service in world.services.values() if service["pool"] and service["balance_method"] == "hash"}
    for name, pool in world.pools.items():
        if "balance_hash" in pool.written and pool.values["balance_method"] != "hash" and name not in hashing:
            at = places.set.get(("pool", name, "balance_hash"))
            yield from _placed(at, "balance_hash has no effect: balance_method is not hash")
        if pool.nodes and not any(node.weight for node in pool.nodes):
            message = f"every node of pool '{pool.name}' has weight 0: new requests for it are answered 503"
            yield from _placed(places.made.get(("pool", name)), message)


def _nodefile(places: Places, pool: Pool) -> Found:
    """A nodefile with which pbal would not start, or that has no nodes."""
    path = path_of(pool)
    assert path is not None
    at = places.set.get(("pool", pool.name.lower(), "nodefile"))
    try:
        if not read(path).nodes:
            yield from _placed(at, f"{path} has no nodes: requests for pool '{pool.name}' are answered 503")
    except ConfigError as error:
        yield from _placed(at, f"{error.message}: pbal does not start with this nodefile")


def proxies(places: Places) -> Found:
    """A reverse_proxy without a pool, unless a plugin may answer."""
    for service in places.world.services.values():
        if service.role == "reverse_proxy" and service["pool"] is None and not service.plugins:
            yield from _placed(places.service(service), f"reverse_proxy '{service.name}' has no pool: every request is answered 503")


def reproxying(places: Places) -> Found:
    """Nodes may order, and there is nothing that they may have."""
    for service in places.world.services.values():
        if service.role == "reverse_proxy" and service["enable_reproxy"] and not service["reproxy_root"] and not service["reproxy_allow"]:
            message = (
                f"enable_reproxy is on, and '{service.name}' refuses every file and URL: add SET reproxy_root = FOLDER for X-REPROXY-FILE,"
                " SET reproxy_allow = HOST:PORT for X-REPROXY-URL"
            )
            yield from _placed(places.tunable(service, "enable_reproxy"), message)


_NEEDS = {
    "buffer_upload_threshold_rate": "buffer_uploads",
    "buffer_upload_threshold_size": "buffer_uploads",
    "buffer_upload_threshold_time": "buffer_uploads",
    "compress_level": "compress",
    "compress_min_length": "compress",
    "compress_types": "compress",
    "error_retry_schedule": "enable_error_retries",
    "fallback_on": "fallback_pool",
    "high_priority_cookie_contents": "high_priority_cookie",
    "max_put_size": "enable_put",
    "min_put_directory": "enable_put",
    "min_body_grace": "min_body_rate",
    "queue_relief_chance": "queue_relief_size",
    "queue_relief_size": "queue_relief_chance",
    "reproxy_allow": "enable_reproxy",
    "reproxy_cache_maxsize": "enable_reproxy",
    "reproxy_root": "enable_reproxy",
    "verify_backend_path": "verify_backend",
    "verify_timeout": "verify_backend",
}
"""Tunables of services that have no effect while another is off."""


def alone(places: Places) -> Found:
    """What says how something is done that is off."""
    for service in places.world.services.values():
        for name in service.explicit:
            other = _NEEDS.get(name, "")
            if other in service.values and not service[other] and service[name]:
                at = places.set.get(("service", service.name.lower(), name))
                yield from _placed(at, _no_effect(name, other, service[other]))
    for pool in places.world.pools.values():
        for name in pool.written:
            other = "check" if name.startswith("check_") else "sticky" if name == "sticky_key" else ""
            if other and pool.values[other] in ("off", b""):
                yield from _placed(places.set.get(("pool", pool.name.lower(), name)), _no_effect(name, other, False))


def _no_effect(name: str, other: str, value: object) -> str:
    return f"{name} has no effect: {other} is {'not set' if value is None else '0' if value == 0 and value is not False else 'off'}"


def docroots(places: Places) -> Found:
    """A web_server without a docroot, or with one that cannot be read."""
    for service in places.world.services.values():
        if service.role != "web_server":
            continue
        if service["docroot"] is None:
            if not service.plugins:
                yield from _placed(places.service(service), f"web_server '{service.name}' has no docroot: every request is answered 404")
        elif not os.access(service["docroot"], os.R_OK | os.X_OK):
            yield from _placed(places.tunable(service, "docroot"), f"docroot {service['docroot']} cannot be read by this user")


def writing(places: Places) -> Found:
    """A web_server that takes files from anybody, or cannot write them."""
    for service in places.world.services.values():
        said = [name for name in ("enable_put", "enable_delete") if service.role == "web_server" and service[name]]
        if not said:
            continue
        at = places.tunable(service, said[0])
        docroot, listen = service["docroot"], service["listen"]
        if docroot is not None and not os.access(docroot, os.W_OK | os.X_OK):
            yield from _placed(at, f"{said[0]} is on, and docroot {docroot} cannot be written by this user")
        asks = service["enable_ssl"] and service["ssl_verify_mode"] & _REQUIRED == _REQUIRED
        if service.enabled and listen is not None and not is_local(listen) and not service.plugins and not asks:
            what = " and ".join({"enable_put": "write", "enable_delete": "remove"}[name] for name in said)
            message = (
                f"whoever reaches {listen} may {what} files of '{service.name}': let it listen where only those reach it who may, or ask"
                " for certificates of clients (ssl_verify_mode = 3), or have a plugin that refuses others"
            )
            yield from _placed(at, message)


def unreachable(places: Places) -> Found:
    """A service that gets no request: never enabled, or without an address, and no selector, nor any node, hands it some."""
    handed = selected(places.world)
    if handed is None or any(service["enable_reproxy"] for service in places.world.services.values() if service.role == "reverse_proxy"):
        return
    for name, service in places.world.services.items():
        if name in handed or service.standing is Standing.DISABLED:
            continue
        if not service.enabled:
            yield from _placed(places.service(service), f"service '{service.name}' is never enabled, and no selector hands requests to it")
        elif service["listen"] is None:
            at = places.enabled.get(name)
            yield from _placed(at, f"service '{service.name}' has no listen address, and no selector hands requests to it")


def rules(places: Places) -> Found:
    """A VHOST or VPATH for a service that cannot answer."""
    for statements in places.rules.values():
        for statement in statements:
            service = places.world.services.get(statement["target_name"].lower())
            if service is None:
                continue
            if service.role in ("", "management"):
                yield Finding(statement, f"service '{service.name}' (role {service.role or 'none'}) answers no requests")
            elif service.standing is Standing.DISABLED:
                yield Finding(statement, f"service '{service.name}' is disabled: requests for it are answered 503")


def passed_by(places: Places) -> Found:
    """What no request reaches, since a rule before it takes every one: default_service, and the rules of plugins behind."""
    for name, statements in places.rules.items():
        selector = places.world.services.get(name)
        if selector is None:
            continue
        order = [plugin for plugin, _ in selector.plugins if plugin in _EVERY_RULE]
        taking = {plugin: places.first.get((name, *_EVERY_RULE[plugin])) for plugin in order}
        first = next((plugin for plugin in order if taking[plugin] is not None), "")
        every = taking.get(first)
        if every is None:
            continue
        said = f"{every.rule.upper()} {every.get('pattern') or every.get('regex')} takes every request before"
        at = places.set.get(("service", name, "default_service"))
        if first == "vhosts" and selector["default_service"] and at is not None:  # VPATH lets OPTIONS * pass
            yield Finding(at, f"{said} default_service", every)
        behind = order[order.index(first) + 1 :]
        for statement in statements:
            if f"{statement.rule}s" in behind:
                yield Finding(statement, f"{said} this: SET plugins names {first} first", every)


def circles(places: Places) -> Found:
    """A selector that hands requests to itself, straight or by others."""
    world = places.world
    steps = {
        name: sorted(other for other in targets(service) or () if other in world.services and world.services[other].role == "selector")
        for name, service in world.services.items()
        if service.role == "selector"
    }
    for name, nexts in steps.items():
        way = _way(steps, nexts, name)
        if way is not None:
            shown = " -> ".join(world.services[each].name for each in (name, *way))
            yield from _placed(_rule_to(places, name, way[0]), f"selector '{world.services[name].name}' selects itself: {shown}")


def _way(steps: dict[str, list[str]], nexts: list[str], goal: str) -> tuple[str, ...] | None:
    """The shortest way from one of `nexts` to `goal`, both included; None if there is none."""
    ways: list[tuple[str, ...]] = [(each,) for each in nexts]
    seen = set(nexts)
    for way in ways:
        if way[-1] == goal:
            return way
        for each in steps.get(way[-1], ()):
            if each not in seen:
                seen.add(each)
                ways.append((*way, each))
    return None


def _rule_to(places: Places, selector: str, target: str) -> Statement | None:
    """The statement that makes a selector hand requests to a service."""
    for statement in places.rules.get(selector, ()):
        if statement["target_name"].lower() == target:
            return statement
    return places.tunable(places.world.services[selector], "default_service")


_ANY = ("", "0.0.0.0", "::")


def consoles(places: Places) -> Found:
    """A console that other machines reach, and may: with `open`, SERVER compatible = perlbal, or passwords in clear text."""
    for service in places.world.services.values():
        if service.role == "management" and service.enabled:
            for risk in risks(service.values):
                yield from _placed(places.tunable(service, "listen"), f"console '{service.name}' {risk}")


def certificates(places: Places) -> Found:
    """Certificates that are odd: a key that others can read, one that ends soon, a broken chain; hosts that none is for."""
    for name, service in places.world.services.items():
        if not service.enabled or service.certificates is None:
            continue
        for warning in service.certificates.warnings:
            yield from _placed(places.tunable(service, "ssl_cert_file"), warning)
        for statement in places.rules.get(name, ()):
            pattern = (statement.get("pattern") or "*").partition(";")[0]
            loose = pattern.startswith("*") and not pattern.startswith("*.")
            named = f"*.{pattern[1:]}" if loose else pattern.strip("[]")
            if pattern != "*" and service.certificates.covering(named.lower()) is None:
                yield Finding(statement, f"no certificate in ssl_cert_file is for VHOST {pattern}")


def _addresses() -> frozenset[str]:
    """What this machine calls itself, as far as that costs no look into the network."""
    return frozenset({"localhost", socket.gethostname().lower(), "127.0.0.1", "::1"})


def circular_nodes(places: Places) -> Found:
    """A node that is a listener of this file."""
    ours = _addresses()
    listeners: dict[int, list[Service]] = {}
    for service in places.world.services.values():
        if service.enabled and service["listen"] is not None and service["listen"].port:
            listeners.setdefault(service["listen"].port, []).append(service)
    for (_, endpoint), statement in places.nodes.items():
        for service in listeners.get(endpoint.port, ()):
            listen = service["listen"]
            local = endpoint.host in ours or is_local(endpoint)
            if endpoint.host == listen.host or (local and listen.host in (*_ANY, *ours)):
                at = places.tunable(service, "listen")
                yield Finding(statement, f"node {endpoint} is where service '{service.name}' listens", at)


def ports(places: Places) -> Found:
    """A port that this user may not listen on."""
    first = _first_free_port()
    for service in places.world.services.values():
        listen = service["listen"]
        if service.enabled and listen is not None and 0 < listen.port < first:
            message = f"port {listen.port} needs root or CAP_NET_BIND_SERVICE (ports from {first} on do not)"
            yield from _placed(places.tunable(service, "listen"), message)


def _first_free_port() -> int:
    """The first port that this process may listen on. Source: capabilities(7), ip(7)."""
    try:
        fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines() if ":" in line)
        if int(fields["CapEff"], 16) >> _CAP_NET_BIND_SERVICE & 1:
            return 0
        return int(_UNPRIVILEGED.read_text(encoding="ascii"))
    except (OSError, KeyError, ValueError):
        return 0 if os.geteuid() == 0 else 1024


def limits(places: Places) -> Found:
    """A limit above the descriptors there are."""
    world = places.world
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = world.server["max_connections"]
    at = places.set.get(("server", "", "max_connections"))
    room = wanted or (1 << 20 if hard == resource.RLIM_INFINITY else hard)
    if wanted is not None and hard != resource.RLIM_INFINITY and wanted > hard and os.geteuid() != 0:
        yield from _placed(at, f"SERVER max_connections = {wanted}: the system allows {hard} open files at most")
    counted = [tunable.name for tunable in world.tunables.values() if tunable.unit in _COUNTED]
    for service in world.services.values():
        for name in counted:
            if name in service.explicit and isinstance(service[name], int) and service[name] > room:
                message = f"{name} = {service[name]} is never reached: the process may have {room} open files"
                yield from _placed(places.tunable(service, name), message)


CHECKS: tuple[Callable[[Places], Found], ...] = (
    pools, balancing, proxies, reproxying, alone, docroots, writing, unreachable, rules, passed_by, circles, consoles, certificates,
    circular_nodes, ports, limits,
)  # fmt: skip
"""All of what only the whole shows."""
