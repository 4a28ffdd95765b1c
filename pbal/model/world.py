"""Everything by name: services, pools, plugins, tunables. The only place where names are resolved.

Names are compared without case. A World can exist without a running server: `pbal check` and start-up build one
from the file, and only if every statement was good does the server take it live. `runtime` is then set, and ENABLE
opens sockets at once.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, Protocol

from pbal.config.spec import Standing
from pbal.model.change import Change, Phase
from pbal.model.clock import Clock
from pbal.model.deliveries import Deliveries
from pbal.model.errors import ConfigError, NotBuilt, UnknownName, bad_value
from pbal.model.exchange import Exchange
from pbal.model.pace import Pace
from pbal.model.plugin import Plugin
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.tracing import Numbering
from pbal.observe.counters import Counters
from pbal.observe.recent import Recent
from pbal.observe.tracer import Follower, Tracer
from pbal.observe.writer import Writer
from pbal.schema import perlbal
from pbal.schema.kinds import Kind, Needed
from pbal.schema.roles import CORE
from pbal.schema.tunables import SERVER, Applies, Tunable, owner
from pbal.schema.types import Endpoint

log = logging.getLogger("pbal")

LOG_SECONDS = 10
"""How often a warning of one kind is logged."""

LOG_KINDS = 256
"""Kinds told apart at a time; nodes are kinds of their own, and there may be thousands."""


class Bound(Protocol):
    """An address that was taken."""

    def close(self) -> None:
        """Give it back."""


class Runtime(Protocol):
    """What the server does for a live world. The model calls it and knows no more of it."""

    def bind(self, service: Service) -> "Bound | None":
        """Take the address that the service says, also from a service that does not want it any more; nothing is accepted yet.

        None if it has it. Raises: ConfigError if it cannot be had.
        """

    async def look_up(self, endpoint: Endpoint) -> None:
        """Find the address of a name before `bind`, off the loop; of anything else nothing. Raises: ConfigError.

        While the file is read again, a name that was looked up is known, and this does not wait.
        """

    def serve(self, bound: Any) -> None:
        """Accept connections on what `bind` gave, and no longer where the service listened before."""

    descriptor_limit: int
    """Most files that the system lets the process open."""

    def unlisten(self, service: Service) -> None:
        """Close the service's listener; connections go on."""

    def listeners(self) -> list[Any]:
        """Every listener, for `socks`: each has describe()."""

    def attach(self, service: Service) -> None:
        """Give the service its role handler."""

    def server_set(self, name: str, value: Any) -> None:
        """Put a tunable of the process to use. Raises: ConfigError if the system refuses it; nothing is changed then."""

    def out_of_room(self) -> None:
        """More than `room` connections are open: stop accepting."""

    def reloading(self) -> None:
        """The file is being read again: whoever started this process is told."""

    def reloaded(self) -> None:
        """That is over."""

    async def shutdown(self, graceful: bool, seconds: float | None) -> None:
        """End the process."""


@dataclass(slots=True)
class LoadedPlugin:
    """A plugin that was LOADed: its class, where from, which generation."""

    name: str
    plugin_class: type[Plugin]
    path: str
    generation: int = 1
    folder: str = ""
    """Where it was found; "" for those that come with pbal."""
    grammar: str = ""
    commands: tuple[Callable[..., Any], ...] = field(default=())
    errors: int = 0
    """Faults of all its generations: exceptions, and verdicts that are none."""
    frozen: bool = False
    """Loaded at start-up, before the collector was told to leave alone what was there."""
    module: str = ""
    """The name its module was imported under."""


class World:
    """All that was configured."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or Clock()
        self.started = self.clock.epoch()
        self.started_at: float = self.clock.now()
        self.second = int(self.started_at)
        """clock.now() in whole seconds, renewed once a second: one shared int for ten thousand birth dates."""
        self.tracer: Tracer | None = None
        """Whom events are told; None while nobody follows anything. Each service has it, too."""
        self.services: dict[str, Service] = {}
        self.pools: dict[str, Pool] = {}
        self.plugins: dict[str, LoadedPlugin] = {}
        self.lent: Mapping[str, LoadedPlugin | ConfigError] = {}
        """Plugins of another World, which LOAD takes from there, and why others cannot be had."""
        self.tunables: dict[str, Tunable] = {tunable.name: tunable for tunable in CORE}
        self.addressed: dict[Endpoint, set[str]] = {}
        """Services that have had an address as `listen`, in lower case: who else to look at where one is enabled, of a thousand."""
        self._parsed: dict[str, tuple[Tunable, str, Any]] = {}
        self.server_tunables: dict[str, Tunable] = {tunable.name: tunable for tunable in SERVER}
        self.defaults: dict[str, str] = {}
        self.standards: dict[str, str] = {}
        """Defaults in force in place of the declared ones: with SERVER compatible = perlbal, those of Perlbal."""
        self.awaited: set[str] | None = None
        """While a file is read, the names of services that it has named before it made them. At the console they must be there."""
        self.server: dict[str, Any] = {t.name: None if t.default is None else t.parse(t.default) for t in SERVER}
        self.server_explicit: dict[str, str] = {}
        self.counters = Counters()
        self.pace = Pace()
        self.deliveries = Deliveries(self)
        self.clients: set[Any] = set()
        """Every open client connection, consoles included.

        Each has state, deadline, born, requests, peer_name, kind(), describe(), expired() and shutdown().
        """
        self.backends: set[Any] = set()
        """Every open or opening backend connection."""
        self.room = 1 << 30
        """Connections, clients and backends together, after which accepting pauses."""
        self.taken: dict[Exchange, float] = {}
        """Exchanges that a plugin took and has not answered, and since when (clock time)."""
        self.identity = os.urandom(8)
        """New with each start: what Via names are made of."""
        self.runtime: Runtime | None = None
        self.server_changed: Callable[[str], None] = lambda name: None
        """Told of each tunable of SERVER that was set; it may refuse with a ConfigError. The process has one, from its start on."""
        self.numbering = Numbering()
        """Ids of requests."""
        self.recent = Recent()
        """The last requests that ended badly."""
        self.access = Writer()
        """Where access logs go."""
        self.numbers = count(1)
        """Numbers for what the console lists and steers: no two things of this process have the same."""
        self.ending = False
        """The end was asked for. Requests are still served while `drain_delay` lasts, but no balancer should send more: /readyz fails."""
        self.draining = False
        """Listeners are closed; what is under way finishes."""
        self._fresh: tuple[object, dict[str, Any]] = (None, {})
        self._change: Change | None = None
        """The change that is under way."""
        self._logged: dict[str, tuple[float, int]] = {}
        """Kinds of warnings logged within the last ten seconds: when, and how many more were left out since."""

    def log_limited(self, what: str, message: str, *args: object) -> None:
        """Log a warning of kind `what` at most once in ten seconds. The next one says how many were left out.

        `args`: what is put into the message; or the one mapping of event and fields, see observe.log.
        """
        now = self.clock.now()
        if what not in self._logged and len(self._logged) >= LOG_KINDS:
            what = "warnings of many kinds"
        last, left_out = self._logged.get(what, (-inf, 0))
        if now - last < LOG_SECONDS:
            self._logged[what] = (last, left_out + 1)
            self.counters.counts["log_lines_limited"] += 1
            return
        self._logged[what] = (now, 0)
        if left_out and args and isinstance(args[0], dict):
            args = ({**args[0], "left_out": left_out},)
        log.warning(message + (f" (and {left_out} more like it)" if left_out else ""), *args)

    def log_left_out(self) -> None:
        """Say how many warnings were left out of each kind whose ten seconds are over. The tick calls it."""
        if not self._logged:
            return
        now = self.clock.now()
        for what, (last, left_out) in list(self._logged.items()):
            if now - last >= LOG_SECONDS:
                del self._logged[what]
                if left_out:
                    fields = {"event": "left_out", "what": what, "left_out": left_out, "seconds": now - last}
                    log.warning("%(what)s: %(left_out)d more left out in %(seconds)d seconds", fields)

    def settle_logs(self) -> None:
        """Close the access logs that no service writes to any more."""
        self.access.use((service.access.target, service.rotation()) for service in self.services.values() if service.access is not None)

    # -- following -----------------------------------------------------------------------------------------------

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of events from now on."""
        if self.tracer is None:
            self._set_tracer(Tracer(self.clock.epoch))
        assert self.tracer is not None
        self.tracer.followers.append(follower)

    def unfollow(self, follower: Follower) -> None:
        """Tell it no more. Twice is once."""
        tracer = self.tracer
        if tracer is not None and follower in tracer.followers:
            tracer.followers.remove(follower)
            if not tracer.followers:
                self._set_tracer(None)

    def _set_tracer(self, tracer: Tracer | None) -> None:
        self.tracer = tracer
        for service in self.services.values():
            service.tracer = tracer

    # -- names ---------------------------------------------------------------------------------------------------

    def service(self, name: str) -> Service:
        """The service called `name`. Raises: UnknownName."""
        try:
            return self.services[name.lower()]
        except KeyError:
            raise UnknownName(f"service '{name}' does not exist", name, [s.name for s in self.services.values()]) from None

    def target(self, name: str) -> str:
        """The name of a service that requests are to be handed to. In a file it may be made later. Raises: UnknownName."""
        if self.awaited is not None and name.lower() not in self.services:
            self.awaited.add(name)
            return name
        return self.service(name).name

    def pool(self, name: str) -> Pool:
        """The pool called `name`. Raises: UnknownName."""
        try:
            return self.pools[name.lower()]
        except KeyError:
            raise UnknownName(f"pool '{name}' does not exist", name, [p.name for p in self.pools.values()]) from None

    def object(self, name: str) -> Service | Pool:
        """A service or, failing that, a pool. Raises: UnknownName."""
        found = self.services.get(name.lower()) or self.pools.get(name.lower())
        if found is None:
            names = [service.name for service in self.services.values()] + [pool.name for pool in self.pools.values()]
            raise UnknownName(f"service/pool '{name}' does not exist", name, names)
        return found

    def fits(self, tunable: str, role: str) -> bool:
        """Whether a tunable, by name, is one of a role. One that is not known is of none, and extra.NAME of all."""
        if tunable.startswith("extra."):
            return True
        known = self.tunables.get(tunable)
        return known is not None and known.fits(role)

    def parsed(self, tunable: Tunable, text: str) -> Any:
        """The value of a default; a thousand services have the same. Raises: ValueError for the operator."""
        known = self._parsed.get(tunable.name)
        if known is None or known[0] is not tunable or known[1] != text:
            known = self._parsed[tunable.name] = (tunable, text, tunable.parse(text))
        return known[2]

    def fresh_values(self) -> dict[str, Any]:
        """What the tunables of a new service are: a thousand services begin with the same."""
        key = (tuple(self.tunables.values()), dict(self.defaults), dict(self.standards))
        if self._fresh[0] != key:
            texts = ((each, self.defaults.get(each.name, self.standard(each))) for each in self.tunables.values())
            self._fresh = (key, {each.name: None if text is None else self.parsed(each, text) for each, text in texts})
        return dict(self._fresh[1])

    def tunable(self, name: str, service: Service) -> Tunable:
        """Raises: UnknownName, with the names of the service's own role as candidates."""
        try:
            return self.tunables[name.lower()]
        except KeyError:
            of_role = f" of role {service.role}" if service.role else ""
            legal = [t.name for t in self.tunables.values() if not t.roles or not service.role or service.role in t.roles]
            elsewhere = owner(name)
            message = f"'{name}' is not a tunable{of_role}{elsewhere}"
            raise UnknownName(message, name, () if elsewhere else legal, kind=Kind.UNKNOWN_TUNABLE) from None

    def loaded_plugin(self, name: str) -> LoadedPlugin:
        """Raises: UnknownName."""
        try:
            return self.plugins[name.lower()]
        except KeyError:
            needs = Needed("load", name.lower())
            raise UnknownName(f"plugin '{name}' is not loaded: LOAD {name} first", name, self.plugins, needs=needs) from None

    def instances(self, plugin: str) -> Iterator[tuple[Service, Plugin]]:
        """Each open service that runs `plugin`, and that service's plugin."""
        return ((service, found) for service, found in self.users(plugin) if service.opened)

    def users(self, plugin: str) -> Iterator[tuple[Service, Plugin]]:
        """Each service that has `plugin` in its chain, open or not, and that service's plugin."""
        for service in self.services.values():
            found = service.plugin(plugin)
            if found is not None:
                yield service, found

    # -- making --------------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """A change, or the one that is under way, which this becomes a part of. What is in the block does not wait."""
        before = self._change
        if before is not None and not before.decided:
            yield before
            return
        change = self._change = Change()
        try:
            with change:
                yield change
        finally:
            self._change = before

    def create_service(self, name: str) -> Service:
        """Raises: ConfigError if another service has the name; a pool may."""
        if name.lower() in self.services:
            against = ("service", name.lower())
            raise ConfigError(f"service '{name}' already exists", about=name, kind=Kind.EXISTS_ALREADY, against=against)
        service = Service(name, self)
        with self.changing() as change:
            self.services[name.lower()] = service
            change.undo(self.services.pop, name.lower())
        return service

    def create_pool(self, name: str) -> Pool:
        """Raises: ConfigError if another pool has the name; a service may."""
        if name.lower() in self.pools:
            against = ("pool", name.lower())
            raise ConfigError(f"pool '{name}' already exists", about=name, kind=Kind.EXISTS_ALREADY, against=against)
        pool = Pool(name)
        with self.changing() as change:
            self.pools[name.lower()] = pool
            change.undo(self.pools.pop, name.lower())
        return pool

    def drop_service(self, service: Service) -> None:
        """A service goes, with its listener, its plugins and its idle connections; what is in progress finishes.

        Raises: ConfigError while another service names it.
        """
        with self.changing() as change:
            change.undo(_restore, self.services, dict(self.services))
            del self.services[service.name.lower()]
            change.later(Phase.CHECK, self._refuse_if_named, service.name)
            change.then(self._dropped, service)

    def _refuse_if_named(self, name: str) -> None:
        if name.lower() not in self.services:
            for other in self.services.values():
                if (other["default_service"] or "").lower() == name.lower():
                    raise ConfigError(f"service '{name}' is the default_service of '{other.name}'", about=name, kind=Kind.CONFLICT)

    def _dropped(self, service: Service) -> None:
        if self.runtime is not None:
            self.runtime.unlisten(service)
        service.stand(Standing.DISABLED)
        service.disabled()
        service.close()
        for client in list(self.clients):
            if client.service is service:
                client.shutdown(True)
        self.settle_logs()

    def drop_pool(self, pool: Pool) -> None:
        """A pool goes. Raises: ConfigError while a service uses it."""
        with self.changing() as change:
            change.undo(_restore, self.pools, dict(self.pools))
            del self.pools[pool.name.lower()]
            change.later(Phase.CHECK, self._refuse_if_used, pool)

    def _refuse_if_used(self, pool: Pool) -> None:
        for service in self.services.values():
            if service["pool"] == pool.name and self.pools.get(pool.name.lower()) is not pool:
                raise ConfigError(f"pool '{pool.name}' is used by service '{service.name}'", about=pool.name, kind=Kind.CONFLICT)

    def set_default(self, name: str, text: str) -> None:
        """A default for services made later. Raises: UnknownName, ConfigError."""
        if name.lower() not in self.tunables and self.asks_for_nothing(perlbal.SERVICE, name, text):
            return
        tunable = self._default_tunable(name)
        if name.lower() in ("role", "listen", "plugins", "pool", "default_service"):
            raise ConfigError(f"'{name}' can have no default: it belongs to one service", about=name, kind=Kind.CONFLICT)
        try:
            tunable.parse(text)
        except ValueError as error:
            raise bad_value(name, text, error, tunable.type.choices) from None
        with self.changing() as change:
            change.undo(_restore, self.defaults, dict(self.defaults))
            self.defaults[tunable.name] = text

    def unset_default(self, name: str) -> None:
        """Services made later have pbal's own default again. Raises: UnknownName, ConfigError if no DEFAULT was said."""
        tunable = self._default_tunable(name)
        if tunable.name not in self.defaults:
            raise ConfigError(f"there is no DEFAULT {tunable.name}", about=name)
        with self.changing() as change:
            change.undo(_restore, self.defaults, dict(self.defaults))
            del self.defaults[tunable.name]

    def _default_tunable(self, name: str) -> Tunable:
        tunable = self.tunables.get(name.lower())
        if tunable is None:
            elsewhere = owner(name)
            raise UnknownName(f"'{name}' is not a tunable of services{elsewhere}", name, self.tunables, kind=Kind.UNKNOWN_TUNABLE)
        return tunable

    def _server_tunable(self, name: str) -> Tunable:
        tunable = self.server_tunables.get(name.lower())
        if tunable is None:
            candidates = (*self.server_tunables, *perlbal.MEANINGLESS)
            elsewhere = owner(name, self.tunables)
            message = f"'{name}' is not a tunable of SERVER{elsewhere}"
            raise UnknownName(message, name, () if elsewhere else candidates, kind=Kind.UNKNOWN_TUNABLE)
        return tunable

    def set_server(self, name: str, text: str) -> None:
        """Set a tunable of the process. Raises: UnknownName, ConfigError."""
        if name.lower() not in self.server_tunables and self.asks_for_nothing(perlbal.SERVER, perlbal.of_server(name), text):
            return
        tunable = self._server_tunable(name)
        try:
            value = tunable.parse(text)
        except ValueError as error:
            raise bad_value(name, text, error, tunable.type.choices) from None
        self._put_server(tunable.name, value, text)

    def unset_server(self, name: str) -> None:
        """A tunable of the process has its default again. Raises: UnknownName, ConfigError."""
        tunable = self._server_tunable(name)
        if tunable.name not in self.server_explicit:
            raise ConfigError(f"SERVER {tunable.name} was not set", about=name)
        default = self.standard(tunable)
        self._put_server(tunable.name, None if default is None else tunable.parse(default), None)

    def _put_server(self, name: str, value: Any, text: str | None) -> None:
        if name == "compatible" and self.services:
            raise ConfigError("SERVER compatible has to stand before the first CREATE SERVICE", about=name, kind=Kind.CONFLICT)
        before = self.server[name]
        if self.server_tunables[name].applies is Applies.START and self.runtime is not None and value != before:
            raise ConfigError(f"{name} cannot be changed while pbal runs: change it in the file, and start pbal anew", about=name)
        with self.changing() as change:
            if name == "compatible":
                change.then(self._use_standards, value == "perlbal")
            change.undo(_restore, self.server_explicit, dict(self.server_explicit))
            if self.runtime is not None:
                self.runtime.server_set(name, value)
                change.undo(self.runtime.server_set, name, before)
            change.undo(self.server_changed, name)  # when the value is back
            change.undo(self.server.__setitem__, name, before)
            self.server[name] = value
            if text is None:
                self.server_explicit.pop(name, None)
            else:
                self.server_explicit[name] = text
            self.server_changed(name)

    def _use_standards(self, perlbals: bool) -> None:
        """Put Perlbal's defaults in force, or the declared ones again."""
        every = (*self.tunables.values(), *self.server_tunables.values())
        self.standards = {each.name: each.perlbal for each in every if perlbals and each.perlbal is not None}
        for each in self.server_tunables.values():
            if each.name not in self.server_explicit:
                text = self.standard(each)
                self.server[each.name] = None if text is None else each.parse(text)

    def place_standards(self, folder: Path) -> None:
        """Make relative paths among the defaults begin at a folder: that of the file which put them in force."""
        for name, text in self.standards.items():
            known = self.tunables.get(name) or self.server_tunables[name]
            self.standards[name] = known.type.placed(text, folder)

    def standard(self, tunable: Tunable) -> str | None:
        """The default of a tunable that is in force, unless DEFAULT says another. None: it is unset."""
        return self.standards.get(tunable.name, tunable.default)

    def asks_for_nothing(self, table: Mapping[str, perlbal.Unbuilt], name: str, text: str) -> bool:
        """Whether a name is Perlbal's, not built yet, and the text its default there.

        Raises: NotBuilt for another text, ConfigError for one that Perlbal would refuse.
        """
        row = table.get(name.lower())
        if row is None:
            return False
        try:
            if row.asks_for_nothing(text):
                return True
        except ValueError as error:
            raise bad_value(name, text, error, row.type.choices) from None
        raise NotBuilt(row.message, about=name)

    def refuse_known(self, tunables: tuple[Tunable, ...], former: frozenset[str] = frozenset()) -> None:
        """Raises: ConfigError if a tunable of a plugin is known from elsewhere. `former`: those of the plugin's generation before."""
        for tunable in tunables:
            if tunable.name in self.tunables and tunable.name not in former:
                raise ConfigError(f"tunable '{tunable.name}' exists already", about=tunable.name, kind=Kind.EXISTS_ALREADY)

    def add_tunable(self, tunable: Tunable) -> None:
        """Make a tunable of a plugin known, with its default on every service."""
        self.tunables[tunable.name] = tunable
        if self.server["compatible"] == "perlbal" and tunable.perlbal is not None:
            self.standards[tunable.name] = tunable.perlbal
        for service in self.services.values():
            service.fill(tunable)

    def forget_tunable(self, name: str) -> list[str]:
        """A tunable goes, and what was said of it; the names of the services where it was SET."""
        self.tunables.pop(name, None)
        self.defaults.pop(name, None)
        said = [service.name for service in self.services.values() if name in service.explicit]
        for service in self.services.values():
            for texts in (service.values, service.explicit, service.defaults):
                texts.pop(name, None)
        return said

    # -- enabling ------------------------------------------------------------------------------------------------

    def bind(self, service: Service, change: Change) -> None:
        """Take the service's address at the end of a change, which is refused if it cannot be had."""
        if self.runtime is not None:
            change.later(Phase.TAKE, self._bind, service, change)

    def _bind(self, service: Service, change: Change) -> None:
        if self.runtime is None or not service.enabled:
            return
        if service["listen"] is None:
            change.then(self.runtime.unlisten, service)
            return
        bound = self.runtime.bind(service)
        if bound is not None:
            change.undo(bound.close)
            change.then(self.runtime.serve, bound)

    def check(self, service: Service) -> None:
        """Refuse what ENABLE would refuse, sockets and plugins' open() aside. Raises: ConfigError."""
        service.check()
        self.check_address(service)

    def check_address(self, service: Service) -> None:
        """Refuse an address that another enabled service has. Raises: ConfigError."""
        listen = service["listen"]
        if listen is None or not (listen.port or listen.path):
            return
        for name in self.addressed.get(listen, ()):
            other = self.services.get(name)
            if other is not None and other.enabled and other is not service and other.values["listen"] == listen:
                message = f"service '{other.name}' listens on {listen} already"
                against = ("set", other.name.lower(), "listen")
                raise ConfigError(message, about=service.name, kind=Kind.CONFLICT, against=against)

    def enable(self, service: Service) -> None:
        """Check the service and, in a live world, open it. Raises: ConfigError; nothing is changed then."""
        if service.enabled:
            message = f"service {service.name} is already enabled"
            against = ("enable", service.name.lower())
            raise ConfigError(message, about=service.name, kind=Kind.EXISTS_ALREADY, against=against)
        with self.changing() as change:
            change.undo(setattr, service, "certificates", service.certificates)
            change.undo(service.stand, service.standing)
            service.stand(Standing.ENABLED)
            change.later(Phase.CHECK, self.check, service)
            if self.runtime is not None:
                change.later(Phase.TAKE, self._attach, service, change)
                self.bind(service, change)
                change.later(Phase.TAKE, service.open)

    def _attach(self, service: Service, change: Change) -> None:
        if self.runtime is not None and service.handler is None:
            self.runtime.attach(service)
            service.open_log()
            change.undo(service.detach)

    def open_for_selectors(self, service: Service) -> None:
        """Open a service that was never enabled: a selector may hand it requests. Raises: ConfigError, and says why in the log."""
        if self.runtime is None or not service.role:
            raise ConfigError(f"service '{service.name}' (role {service.role or 'none'}) answers no requests")
        try:
            with Change() as change:
                change.undo(setattr, service, "certificates", service.certificates)
                service.check()
                self._attach(service, change)
                service.open()
        except ConfigError as error:
            self.log_limited(
                f"open {service.name}",
                "service %(service)s cannot answer for a selector: %(reason)s",
                {"event": "cannot_answer", "service": service.name, "reason": error.message},
            )
            raise ConfigError(f"service '{service.name}' is not ready", about=service.name) from None

    def disable(self, service: Service) -> None:
        """Stop listening, and answering selectors; parked requests get their empty answer. Raises: ConfigError."""
        if service.standing is Standing.DISABLED:
            raise ConfigError(f"service {service.name} is already disabled", about=service.name)
        if service.role == "management":
            raise ConfigError("can't disable management service", about=service.name)
        with self.changing() as change:
            change.undo(service.stand, service.standing)
            service.stand(Standing.DISABLED)
            if self.runtime is not None:
                change.then(self.runtime.unlisten, service)
            change.then(service.disabled)


def _restore(names: dict[str, Any], before: dict[str, Any]) -> None:
    names.clear()
    names.update(before)
