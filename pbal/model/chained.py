"""A service's chain of plugins: made, opened, replaced and closed. Each of its plugins is an instance of its own.

A chain is replaced in a change (model/change.py): plugins that stay keep their instance; those that come are opened before the change is
committed, and those that go are closed after it.
"""

import logging
from abc import ABCMeta, abstractmethod
from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pbal.model.bound import Bound, HookTable, Timing
from pbal.model.change import Change, Phase
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.faults import asked, guarded
from pbal.model.hooks import HOOKS, Verdict, hooks_of
from pbal.model.plugin import Plugin
from pbal.schema.kinds import Kind, Needed
from pbal.schema.types import either

if TYPE_CHECKING:
    from pbal.model.world import World

log = logging.getLogger("pbal.plugins")

MINUTE: Final = 60.0
"""Seconds over which the faults of a plugin are counted."""

FIRST: Final = {"reverse_proxy": "start_proxy_request", "web_server": "start_web_request"}
"""The hook that comes before all others, by role, where it is not start_http_request."""

LETTING_IN: Final = frozenset({*FIRST.values(), "start_http_request", "proxy_read_request", "handle_put"})
"""Hooks that decide whether a request is served. A plugin that guards by one of these runs before those that do not guard. Others say which
service or pool has a request, or what becomes of an answer: there the order is the operator's."""

Chain = list[tuple[str, Plugin]]
"""Plugins with the names that they were loaded by, in the order in which their hooks run."""


class Chained(metaclass=ABCMeta):
    """What runs plugins: a service, as far as they are concerned."""

    values: dict[str, Any]

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.world = world
        self.role = ""
        self.opened = False
        self.plugins: Chain = []
        """In the order in which their hooks run."""
        self.hooks = HookTable()
        self.out: dict[str, tuple[Plugin, str]] = {}
        """Plugins that failed too often (plugin_error_limit), by name, and what is said of that."""
        self._failing: dict[str, tuple[Plugin, float, int]] = {}
        """Plugins that failed, since when they are counted (clock time), and how often that was."""

    @abstractmethod
    def instance(self, plugin_class: type[Plugin]) -> Plugin:
        """Make a plugin for this service."""

    @abstractmethod
    def _check_open(self) -> None:
        """Refuse what would leave an open service without what it needs."""

    def _set_plugins(self, names: tuple[str, ...], change: Change) -> None:
        """Replace the chain. Plugins that stay keep their instance; those that go are open until the change is committed."""
        if not self.role and any(name.lower() != "none" for name in names):
            raise ConfigError("SET role before plugins", about="plugins", kind=Kind.NEEDS_OTHER_FIRST, needs=Needed("set", "role"))
        wanted: list[str] = []
        for name in names:
            plugin_name = self.world.loaded_plugin(name).name if name.lower() != "none" else ""
            if plugin_name and plugin_name not in wanted:
                wanted.append(plugin_name)
        former = self.plugins
        current = dict(former)
        chain = self.in_order([(name, current.get(name) or self._make(name)) for name in wanted])
        change.undo(self.replace_chain, former)
        self.replace_chain(chain)
        if self.opened:
            change.later(Phase.CHECK, self._check_open)
            change.later(Phase.TAKE, self._open_new, tuple(former), change)
            change.then(self._let_go, former, chain)

    def _open_new(self, former: tuple[tuple[str, Plugin], ...], change: Change) -> None:
        """Open the plugins that have come into the chain."""
        new = [pair for pair in self.plugins if pair not in former]
        self._open(new)
        change.undo(self._let_go, new, [])

    def _let_go(self, former: Chain, chain: Chain) -> None:
        """Close the plugins of a former chain that are not in this one."""
        for name, plugin in former:
            if all(plugin is not other for _, other in chain):
                guarded(self.world, name, plugin.service_disabled)
                guarded(self.world, name, plugin.close)

    def _open(self, plugins: Chain) -> None:
        """Open plugins, all or none."""
        done: Chain = []
        try:
            for name, plugin in plugins:
                asked(self.world, name, plugin.open)
                done.append((name, plugin))
        except Exception:
            for name, plugin in done:
                guarded(self.world, name, plugin.close)
            raise

    def _make(self, name: str) -> Plugin:
        loaded = self.world.loaded_plugin(name)
        roles = loaded.plugin_class.roles
        if roles and self.role not in roles:
            raise ConfigError(
                f"plugin '{name}' works on {either(sorted(roles))} services, and '{self.name}' is a {self.role}",
                about=name,
                kind=Kind.CONFLICT,
                against=("set", self.name.lower(), "role"),
            )
        if guards_nothing(loaded.plugin_class, self.role):
            raise ConfigError(
                f"plugin '{name}' guards, and none of its hooks runs on a {self.role}: it would keep nobody out of '{self.name}'",
                about=name,
                kind=Kind.CONFLICT,
                against=("set", self.name.lower(), "role"),
            )
        made: list[Plugin] = []
        asked(self.world, name, lambda: made.append(self.instance(loaded.plugin_class)), name="__init__")
        return made[0]

    def check_plugins(self) -> None:
        """Refuse what its plugins cannot run with. Raises: ConfigError."""
        for name, plugin in self.plugins:
            asked(self.world, name, plugin.check)
            said: list[str] = []
            asked(self.world, name, _pools_of, plugin, said, name="pools")
            for pool in said:
                self.world.pool(pool)

    def pools_of_plugins(self) -> set[str]:
        """The names of the pools that plugins may send requests to, as the pools have them; one that is not there as it was said."""
        said: list[str] = []
        for name, plugin in self.plugins:
            guarded(self.world, name, partial(_pools_of, plugin, said), name="pools")
        return {self.world.pools[name.lower()].name if name.lower() in self.world.pools else name for name in said}

    def as_said(self, chain: Chain) -> Chain:
        """A chain in the order of SET plugins, whatever its plugins have made of that."""
        said = [name.lower() for name in self.values["plugins"]]
        return sorted(chain, key=lambda pair: said.index(pair[0]) if pair[0] in said else len(said))

    def in_order(self, chain: Chain) -> Chain:
        """A chain in the order in which its hooks run here. Raises: ConfigError."""
        return in_order(chain, tuple(name.lower() for name in self.values["plugins_before_guards"]))

    def replace_chain(self, chain: Chain) -> None:
        """Swap the whole chain, hooks included, in one step. It is in order.

        Who was taken out stays out, unless it is another instance: that of a new generation, or of a chain that was made anew.
        """
        present = set(chain)
        self.out = {name: found for name, found in self.out.items() if (name, found[0]) in present}
        self._failing = {name: found for name, found in self._failing.items() if (name, found[0]) in present}
        bound: list[Bound] = []
        last = max((place for place, (_, plugin) in enumerate(chain) if _lets_in(plugin)), default=-1)
        for place, (name, plugin) in enumerate(chain):
            if name in self.out:
                if plugin.guards:
                    bound.insert(0, Bound(name, FIRST.get(self.role, "start_http_request"), self._closed, _wants_nothing, None, True))
                continue
            loaded = self.world.plugins.get(name)
            timings = {} if loaded is None else loaded.timings
            methods = hooks_of(type(plugin))
            for hook_name in [each for each in HOOKS if each in methods and self.role in HOOKS[each].roles]:
                timing = timings.setdefault(hook_name, Timing())
                call = getattr(plugin, methods[hook_name])
                asks = plugin.guards and plugin.guards_by_credentials
                bound.append(Bound(name, hook_name, call, plugin.wants_body, timing, place <= last, asks))
        self.plugins = chain
        self.hooks = HookTable(bound, self.role)

    def failed(self, name: str) -> None:
        """A plugin of the chain failed. Too many times in a minute, and it is taken out; who guards closes the service."""
        limit = self.values["plugin_error_limit"]
        plugin = self.plugin(name)
        if not limit or plugin is None or name in self.out:
            return
        now = self.world.clock.now()
        found = self._failing.get(name)
        since, count = (now, 0) if found is None or found[1] + MINUTE < now else found[1:]
        self._failing[name] = (plugin, since, count + 1)
        if count + 1 >= limit:
            self._take_out(name, plugin, count + 1)

    def _take_out(self, name: str, plugin: Plugin, faults: int) -> None:
        """A plugin has failed so often that the requests do better without it, or are not to be served."""
        what = "it guards the service, which answers 503" if plugin.guards else "requests go on without it"
        self.out[name] = (plugin, f"{faults} faults in a minute: {what}")
        self.replace_chain(self.plugins)
        self.world.counters.counts["plugins_taken_out"] += 1
        fields = {"event": "plugin_taken_out", "plugin": name, "service": self.name, "faults": faults, "what": what}
        log.error(
            "plugin %(plugin)s is taken out of service %(service)s after %(faults)d faults in a minute (plugin_error_limit): %(what)s;"
            " RELOAD %(plugin)s brings it back",
            fields,
        )

    def _closed(self, exchange: Exchange) -> Verdict:
        """The hook of a guard that was taken out."""
        exchange.error(503, b"What guards this service has failed.\n", [(b"Retry-After", b"60")])
        return Verdict.TAKEN

    def plugin(self, name: str) -> Plugin | None:
        """This service's plugin called `name`, or None."""
        for plugin_name, plugin in self.plugins:
            if plugin_name == name:
                return plugin
        return None

    def disabled(self) -> None:
        """Tell the plugins that the service stopped listening."""
        if self.opened:
            for name, plugin in self.plugins:
                guarded(self.world, name, plugin.service_disabled)


def guards_nothing(plugin_class: type[Plugin], role: str) -> bool:
    """Whether a plugin that guards would not be asked on services of a role."""
    return plugin_class.guards and not any(role in HOOKS[name].roles for name in hooks_of(plugin_class))


def in_order(chain: Chain, before_guards: Collection[str] = ()) -> Chain:
    """A chain as the plugins want it: each before and after those that it names, those that guard before others, else as it was said.

    `before_guards`: names of those that come before them all the same. What has to be before a plugin comes as early as that one.
    Raises: ConfigError where two of them cannot both have it.
    """
    names = {name for name, _ in chain}
    first: dict[str, set[str]] = {name: set(plugin.after) & names for name, plugin in chain}
    for name, plugin in chain:
        for other in set(plugin.before) & names:
            first[other].add(name)
    ranks = {name: 0 if name in before_guards else _rank(plugin) for name, plugin in chain}
    for _ in chain:  # as often as a row of plugins that come before each other may be long
        for name, others in first.items():
            for other in others:
                ranks[other] = min(ranks[other], ranks[name])
    left, found = list(chain), []
    while left:
        free = [pair for pair in left if not any(name in first[pair[0]] for name, _ in left)]
        if not free:
            raise ConfigError(f"plugins {' and '.join(name for name, _ in left)} each want to be before the other (before, after)")
        next_one = min(free, key=lambda pair: ranks[pair[0]])
        left.remove(next_one)
        found.append(next_one)
    return found


def _rank(plugin: Plugin) -> int:
    """Where a plugin stands if nobody says: who guards first, and of these who needs no credentials."""
    if not _lets_in(plugin):
        return 3
    return 2 if plugin.guards_by_credentials else 1


def _lets_in(plugin: Plugin) -> bool:
    """Whether it guards, by a hook that decides whether a request is served."""
    return plugin.guards and not LETTING_IN.isdisjoint(hooks_of(type(plugin)))


def _wants_nothing(exchange: Exchange) -> bool:
    """No body."""
    return False


def _pools_of(plugin: Plugin, said: list[str]) -> None:
    """Add what its pools() returns to `said`."""
    names: Iterable[object] = plugin.pools()
    if isinstance(names, str):
        raise TypeError(f"it returned the text {names!r:.60}, not a tuple of names")
    said.extend(map(str, names))
