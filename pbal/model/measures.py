"""What can be measured now: every declared counter, gauge and histogram with its values, in one pass.

    samples()   each number as a Sample: `show counters` and /metrics render it
    values()    those of one name
    histograms()   those that are kept, for `show latency` and for the tick, which turns them

Whoever lists gives way to the loop between pieces: samples come one after the other, a family after the other (a family is what has one
name; Prometheus wants it together). Between two samples services and nodes may come and go, so lists are copied where they are walked.

A number of the core has its collector here. Those of plugins are asked of their instances (Plugin.measured).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pbal import __version__, build
from pbal.model.faults import guarded, tell
from pbal.model.faults import shown as shown_value
from pbal.model.health import UNTRIED, UP
from pbal.model.plugin import Plugin
from pbal.model.pool import Node, Pool
from pbal.observe.counters import COUNTER, GAUGE, Counter
from pbal.observe.histogram import SHOWN, Histogram
from pbal.observe.memory import resident_bytes
from pbal.observe.traffic import CLASSES

if TYPE_CHECKING:
    from pbal.model.limiting import Limit
    from pbal.model.service import Service
    from pbal.model.world import World

Measured = tuple[tuple[str, ...], float | Histogram]
"""Values of the labels, in the order of the declaration, and the value."""
Collector = Callable[["World"], Iterable[Measured]]


class Sample(NamedTuple):
    """One number, as Prometheus understands it."""

    family: str
    """The name of what it belongs to: "pbal_requests", "pbal_request_seconds"."""
    kind: str
    """COUNTER, GAUGE or HISTOGRAM."""
    help: str
    unit: str
    """The unit, which is the end of the family's name then, or ""."""
    name: str
    """The family's name and what it ends with: "pbal_requests_total", "pbal_request_seconds_bucket"."""
    labels: tuple[tuple[str, str], ...]
    """Name and value of each label. That of a bucket is `le`: durations in seconds that are at most so long."""
    value: float


_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
"""In the value of a label, as /metrics has them."""
_NAMED: Final = "pbal_"
_SMALLER: Final = {"milliseconds": ("_ms", "_seconds", "seconds", 1000)}
"""Units that /metrics does not have: what the name ends with, what it becomes, the unit, by how much to divide."""


def samples(world: "World") -> Iterator[Sample]:
    """Every number there is, the families in the order of their names. Nothing in it is older than the moment it is taken.

    Who reads them may wait in between: what is dropped or unloaded meanwhile is left out.
    """
    counters = world.counters
    for name, counter in sorted(counters.all.items()):
        if name in counters.declared:
            for counted in _counted(world, counter):
                yield from _rendered(counter, (), counted)
            continue
        for labels, value in _collected(world, counter):
            yield from _rendered(counter, tuple(zip(counter.labels, labels, strict=True)), value)


def _collected(world: "World", counter: Counter) -> Iterator[Measured]:
    """The values of a number that is not in `counts`."""
    collector = _COLLECTORS.get(counter.name)
    if collector is not None:
        yield from collector(world)
        return
    for service in list(world.services.values()):
        if service.opened:
            for name, plugin in service.plugins:
                if counter in plugin.counters:
                    yield from _told(world, name, plugin, counter)


def _told(world: "World", name: str, plugin: Plugin, counter: Counter) -> list[Measured]:
    """What a plugin says of a number that it declared; a fault in it is reported, and costs that number only."""
    found: list[Measured] = []

    def measured() -> None:
        for labels, value in plugin.measured(counter.name):
            if not isinstance(labels, tuple) or len(labels) != len(counter.labels) or not all(isinstance(each, str) for each in labels):
                raise ValueError(f"{counter.name} is declared with the labels {counter.labels}, found {shown_value(labels)}")
            if not isinstance(value, Histogram if counter.histogram else int | float):
                raise ValueError(f"{counter.name} is {shown_value(value)}, not a {'Histogram' if counter.histogram else 'number'}")
            found.append((labels, value))

    return found if guarded(world, name, measured) else []


def _counted(world: "World", counter: Counter) -> Iterator[float]:
    """The value of a number in `counts`. Where a plugin made of it what is none, that is told, and the others can be read all the same."""
    value: object = world.counters.counts[counter.name]
    if isinstance(value, int | float):
        yield value
        return
    owner = next((name for name, loaded in world.plugins.items() if counter in loaded.plugin_class.counters), "unknown")
    tell(world, owner, "counts", f"{counter.name} is {shown_value(value)}, not a number", "")


def values(world: "World", name: str) -> Iterator[Measured]:
    """The values of one number with labels; none where nobody declared it."""
    counter = world.counters.collected.get(name)
    return iter(()) if counter is None else _collected(world, counter)


def histograms(world: "World") -> Iterator[Histogram]:
    """Every histogram that is kept with labels."""
    for counter in list(world.counters.collected.values()):
        if counter.histogram:
            for _, value in _collected(world, counter):
                if isinstance(value, Histogram):
                    yield value


def _rendered(counter: Counter, labels: tuple[tuple[str, str], ...], value: float | Histogram) -> Iterator[Sample]:
    """A value as samples: one, or those of a histogram."""
    family, unit, kind = _NAMED + counter.name, counter.unit, counter.kind
    if unit in _SMALLER and not isinstance(value, Histogram):
        ending, better, unit, by = _SMALLER[unit]
        family = family.replace(ending, "") + better
        value = value / by
    if unit and not family.endswith("_" + unit):
        unit = ""
    if not isinstance(value, Histogram):
        name = f"{family}_total" if kind is COUNTER else family
        yield Sample(family, kind, counter.summary, unit, name, labels, value)
        return
    sums = value.cumulative()
    for edge, number in zip(SHOWN, sums, strict=False):
        yield Sample(family, kind, counter.summary, unit, f"{family}_bucket", (*labels, ("le", f"{edge:g}")), number)
    yield Sample(family, kind, counter.summary, unit, f"{family}_bucket", (*labels, ("le", "+Inf")), sums[-1])
    yield Sample(family, kind, counter.summary, unit, f"{family}_sum", labels, value.seconds)
    yield Sample(family, kind, counter.summary, unit, f"{family}_count", labels, sums[-1])


def shown(world: "World") -> Iterator[tuple[str, float]]:
    """Every number as the console names it: `requests`, `service_requests{service="web"}`. Of histograms number and sum, no buckets.

    Who reads them may wait in between, as with `samples`.
    """
    counters = world.counters
    for name, counter in sorted(counters.all.items()):
        if name in counters.declared:
            for counted in _counted(world, counter):
                yield name, counted
            continue
        for values, value in _collected(world, counter):
            said = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in zip(counter.labels, values, strict=True))
            labels = f"{{{said}}}" if said else ""
            if isinstance(value, Histogram):
                yield f"{name}_count{labels}", value.count
                yield f"{name}_sum{labels}", round(value.seconds, 6)
            else:
                yield f"{name}{labels}", value


# -- collectors --------------------------------------------------------------------------------------------------------


def _answers(service: "Service") -> bool:
    return service.handler is not None and service.answers_http


def _services(value: "Callable[[Service], float | Histogram]", proxies: bool = False) -> Collector:
    """A number of each service that answers requests; `proxies`: of those with nodes."""

    def collect(world: "World") -> Iterator[Measured]:
        for service in list(world.services.values()):
            if _answers(service) and (service.role == "reverse_proxy" or not proxies):
                yield (service.name,), value(service)

    return collect


def _nodes(value: Callable[[Node], float | Histogram]) -> Collector:
    """A number of each node of each pool."""

    def collect(world: "World") -> Iterator[Measured]:
        for pool in list(world.pools.values()):
            for node in list(pool.nodes):
                yield (pool.name, node.name), value(node)

    return collect


def _node_states(world: "World") -> Iterator[tuple[Pool, Node, str]]:
    now = world.clock.now()
    for pool in list(world.pools.values()):
        for node in list(pool.nodes):
            yield pool, node, node.verdict(now).word


def _node_up(world: "World") -> Iterator[Measured]:
    for pool, node, word in _node_states(world):
        yield (pool.name, node.name), 1 if word in (UP, UNTRIED) else 0


def _node_state(world: "World") -> Iterator[Measured]:
    for pool, node, word in _node_states(world):
        yield (pool.name, node.name, word), 1


def _pools(value: Callable[[Pool, float], float]) -> Collector:
    """A number of each pool, at a clock time."""

    def collect(world: "World") -> Iterator[Measured]:
        for pool in list(world.pools.values()):
            yield (pool.name,), value(pool, world.clock.now())

    return collect


def _load(service: "Service") -> tuple[int, int, int]:
    return (0, 0, 0) if service.handler is None else service.handler.load()


def _service_responses(world: "World") -> Iterator[Measured]:
    for service in list(world.services.values()):
        if _answers(service):
            for place, number in enumerate(service.traffic.statuses):
                if number:
                    yield (service.name, CLASSES[place]), number


def _node_responses(world: "World") -> Iterator[Measured]:
    for pool in list(world.pools.values()):
        for node in list(pool.nodes):
            tally = [0] * len(CLASSES)
            for status, number in node.responses.items():
                tally[status // 100] += number
            for place, number in enumerate(tally):
                if number:
                    yield (pool.name, node.name, CLASSES[place]), number


def _limits(value: "Callable[[Limit], float]") -> Collector:
    """A number of each limit of each service."""

    def collect(world: "World") -> Iterator[Measured]:
        for service in list(world.services.values()):
            for limit in service.limiting:
                yield (service.name, limit.said), value(limit)

    return collect


def _plugin_faults(world: "World") -> Iterator[Measured]:
    for loaded in list(world.plugins.values()):
        yield (loaded.name,), loaded.errors


def _hook_calls(world: "World") -> Iterator[Measured]:
    for loaded in list(world.plugins.values()):
        for hook, timing in list(loaded.timings.items()):
            yield (loaded.name, hook), timing.calls


def _hook_seconds(world: "World") -> Iterator[Measured]:
    for loaded in list(world.plugins.values()):
        for hook, timing in list(loaded.timings.items()):
            yield (loaded.name, hook), round(timing.seconds, 6)


def _access_logs(world: "World") -> Iterator[Measured]:
    targets = {service.access.target for service in list(world.services.values()) if service.access is not None}
    for target in sorted(targets, key=lambda each: each.name):
        yield (target.name,), target.put - target.taken


def _one(value: "Callable[[World], float]") -> Collector:
    return lambda world: (((), value(world)),)


def _open(world: "World") -> int:
    listeners = world.runtime.listeners() if world.runtime is not None else ()
    return len(world.clients) + len(world.backends) + len(world.bodies.spools) + len(world.files.open) + len(listeners)


def _build(world: "World") -> Iterator[Measured]:
    yield (__version__, build.kind()), 1


_COLLECTORS: Final[dict[str, Collector]] = {
    "service_requests": _services(lambda service: service.traffic.requests),
    "service_responses": _service_responses,
    "service_received_bytes": _services(lambda service: service.traffic.received),
    "service_sent_bytes": _services(lambda service: service.traffic.sent),
    "request_seconds": _services(lambda service: service.traffic.latency),
    "service_parked": _services(lambda service: service.traffic.parked),
    "service_waiting": _services(lambda service: _load(service)[0], proxies=True),
    "service_connecting": _services(lambda service: _load(service)[1], proxies=True),
    "service_bored": _services(lambda service: _load(service)[2], proxies=True),
    "node_requests": _nodes(lambda node: node.requests),
    "node_responses": _node_responses,
    "node_seconds": _nodes(lambda node: node.latency),
    "node_connects": _nodes(lambda node: node.connects),
    "node_connect_failures": _nodes(lambda node: node.failures),
    "node_errors": _nodes(lambda node: node.errors),
    "node_active": _nodes(lambda node: node.active),
    "node_up": _node_up,
    "node_weight": _nodes(lambda node: node.weight),
    "pool_retrying": _pools(lambda pool, now: pool.retrying),
    "node_state": _node_state,
    "node_ejections": _nodes(lambda node: node.ejections),
    "node_stalls": _nodes(lambda node: node.stalls),
    "node_checks": _nodes(lambda node: node.checks),
    "node_check_failures": _nodes(lambda node: node.check_failures),
    "pool_usable": _pools(lambda pool, now: len(pool.usable(now))),
    "pool_open": _pools(lambda pool, now: 1 if pool.usable(now) and pool.open else 0),
    "pool_opened": _pools(lambda pool, now: pool.opened),
    "limit_refusals": _limits(lambda limit: limit.refusals),
    "limit_forgotten": _limits(lambda limit: limit.forgotten),
    "limit_clients": _limits(lambda limit: limit.clients),
    "tunnels_open": _one(lambda world: len(world.tunnels)),
    "plugin_faults": _plugin_faults,
    "plugin_hook_calls": _hook_calls,
    "plugin_hook_seconds": _hook_seconds,
    "access_log_waiting_bytes": _access_logs,
    "body_memory_bytes": _one(lambda world: world.bodies.memory),
    "spool_bytes": _one(lambda world: world.bodies.spooled),
    "upload_sessions": _one(lambda world: len(world.uploads)),
    "spools": _one(lambda world: len(world.bodies.spools)),
    "file_cache_entries": _one(lambda world: world.files.kept),
    "file_cache_bytes": _one(lambda world: world.files.memory),
    "files_open": _one(lambda world: len(world.files.open)),
    "resident_bytes": _one(lambda world: resident_bytes()),
    "descriptors": _one(_open),
    "descriptors_limit": _one(lambda world: 0 if world.runtime is None else world.runtime.descriptor_limit),
    "uptime_seconds": _one(lambda world: int(world.clock.now() - world.started_at)),
    "build_info": _build,
}
"""By name; tests compare them with what is declared."""

__all__ = ["GAUGE", "Measured", "Sample", "histograms", "samples", "shown", "values"]
