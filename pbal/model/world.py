"""Everything by name: services, pools, plugins, tunables. The only place where names are resolved.

Names are compared without case. A World can exist without a running server: `pbal check` and start-up build one
from the file, and only if every statement was good does the server take it live. `runtime` is then set, and ENABLE
opens sockets at once.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Protocol

from pbal.config.spec import Standing
from pbal.model import telling
from pbal.model.bodies import Bodies
from pbal.model.bound import Timing
from pbal.model.change import Change, Phase, restore
from pbal.model.clock import Clock
from pbal.model.conversation import OwnRole
from pbal.model.deliveries import Deliveries
from pbal.model.errors import ConfigError, UnknownName
from pbal.model.exchange import Exchange
from pbal.model.kept import Kept, Stamp
from pbal.model.limited import LimitedLog
from pbal.model.media import MediaTypes
from pbal.model.nodefile import NodeFiles
from pbal.model.openfiles import OpenFiles
from pbal.model.pace import Pace
from pbal.model.plugin import Plugin
from pbal.model.pool import Node, Pool
from pbal.model.progress import Sessions
from pbal.model.readings import Readings
from pbal.model.resolving import Names
from pbal.model.service import Service
from pbal.model.settings import Defaults, ProcessSettings
from pbal.model.tracing import Numbering
from pbal.model.tunnels import Tunnel
from pbal.observe.counters import COLLECTED, CORE, Counter, Counters
from pbal.observe.recent import Recent
from pbal.observe.sockets import Kind as SocketKind
from pbal.observe.sockets import SocketInfo
from pbal.observe.tracer import Follower, Tracer
from pbal.observe.writer import Writer
from pbal.schema.kinds import Kind, Needed
from pbal.schema.pools import owner
from pbal.schema.roles import ROLES, Role, role_tunable
from pbal.schema.tunables import Tunable
from pbal.schema.types import Endpoint

log = logging.getLogger("pbal")


class Bound(Protocol):
    """An address that was taken."""

    def close(self) -> None:
        """Give it back."""


class Connected(Protocol):
    """An open connection of a client, in whatever state: also one that has not begun, or has ended and lingers."""

    deadline: float
    """When `expired` is to be called (clock time)."""
    born: int
    transport: Any
    """What it can be aborted by, where nothing else works; None where it has been handed over."""

    @property
    def home(self) -> Service | None:
        """The service whose listener accepted it; None where it is of no service any more."""

    @property
    def state(self) -> str:
        """For people; "closed" where nothing is left of it."""

    @property
    def requests(self) -> int:
        """How many came by it."""

    @property
    def peer_name(self) -> str:
        """Address and port, for people."""

    def expired(self, now: float) -> None:
        """The deadline passed."""

    def shutdown(self, graceful: bool) -> None:
        """The server or the service ends: close, after what is under way if graceful."""

    def kind(self) -> SocketKind:
        """See observe.sockets."""

    def describe(self) -> SocketInfo:
        """One line for `socks`."""


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

    async def check_nodes(self, pool: Pool, nodes: Sequence[Node]) -> None:
        """Check nodes of a pool now, and wait for what comes of it. Raises: ConfigError if there is nothing to check by."""

    @property
    def descriptor_limit(self) -> int:
        """Most files that the system lets the process open."""

    def refresh(self, service: Service) -> None:
        """Bring the service's listener, if it has one, up to what its tunables say. Raises: ConfigError if the system refuses that."""

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
    version: str = ""
    """As its class says it, or the distribution that it comes with; "" where nobody says."""
    kept: Kept | None = None
    """The files that it was made of."""
    former: Kept | None = None
    """Those of the generation before, to go back to; None where there was none, or they were the same."""
    left: Stamp | None = None
    """What the files are that RELOAD PREVIOUS went back from: plugin_autoreload leaves them alone until somebody writes."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """What its hooks have cost, by hook, over all generations."""


class Changing:
    """The block of one who changes something: of a change of its own, or of a part of the one that is under way."""

    __slots__ = ("_before", "_own", "_world")

    def __init__(self, world: "World") -> None:
        self._world = world
        self._before: Change | None = None
        self._own: Change | None = None

    def __enter__(self) -> Change:
        world = self._world
        before = world.change
        if before is not None and not before.decided:
            return before
        self._before = before
        self._own = world.change = Change()
        return self._own

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._own is not None:
            try:
                self._own.__exit__(kind, error, trace)
            finally:
                self._world.change = self._before


class World:
    """All that was configured."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or Clock()
        self.started = self.clock.epoch()
        self.thread = 0
        """That of the loop which serves it; 0 before."""
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
        self.settings = Defaults(self.changing)
        self.media = MediaTypes(self.changing)
        self.tunables = self.settings.tunables
        self.defaults = self.settings.said
        self.addressed: dict[Endpoint, set[str]] = {}
        """Services that have had an address as `listen`, in lower case: who else to look at where one is enabled, of a thousand."""
        self.process = ProcessSettings(
            self.changing, self.settings, lambda: self.runtime is not None, self._use, lambda name: self.server_changed(name)
        )
        self.server_tunables = self.process.tunables
        self.server = self.process.values
        self.server_explicit = self.process.explicit
        self._going: list[str] = []
        """Services that the change under way drops."""
        self.awaited: set[str] | None = None
        """While a file is read, the names of services that it has named before it made them. At the console they must be there."""
        self.counters = Counters()
        self.limited = LimitedLog(self.clock, self.counters)
        self.log_limited = self.limited.warn
        self.nodefiles = NodeFiles(self.clock, self.counters.counts, self.pools)
        self.readings = Readings()
        self.names = Names(self.clock, self.counters.counts, self.limited, self.pools)
        self.pace = Pace()
        self.bodies: Bodies = Bodies(self.server, self.clock.now)
        self.files: OpenFiles = OpenFiles(self.server, self.counters.counts)
        self.uploads: Sessions = Sessions(self.clock.now)
        """What upload_trackers heard."""
        self.deliveries = Deliveries(self)
        self.clients: set[Any] = set()
        """Every open client connection, consoles included: whoever called joined()."""
        self.roles: dict[str, Role] = ROLES
        """Those that services may have."""
        self.own_roles: dict[str, tuple[str, OwnRole]] = {}
        """Of them, those that plugins bring: the plugin, and the role."""
        self.backends: set[Any] = set()
        """Every open or opening backend connection."""
        self.room = 1 << 30
        """Connections, clients and backends together, after which accepting pauses."""
        self.targets: object | None = None
        """Connections to servers that X-REPROXY-URL names (roles/proxy/reproxy/targets.py); None before the first one is wanted."""
        self.taken: dict[Exchange, float] = {}
        """Exchanges that a plugin took and has not answered, and since when (clock time)."""
        self.tunnels: dict[int, Tunnel] = {}
        """Upgraded connections that pass through, by their numbers, the oldest first."""
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
        self.change: Change | None = None
        """The change that is under way."""

    def _use(self, name: str, value: Any) -> None:
        """A tunable of the process has a value. Raises: ConfigError if it cannot be had."""
        if name == "compatible" and self.services:
            raise ConfigError("SERVER compatible has to stand before the first CREATE SERVICE", about=name, kind=Kind.CONFLICT)
        if self.runtime is not None:
            self.runtime.server_set(name, value)

    def joined(self, client: Connected) -> None:
        """A connection is there, until `clients` is told that it is not."""
        self.clients.add(client)

    def settle_logs(self) -> None:
        """Close the access logs that no service writes to any more: at the end of a change, once for all of its services."""
        change = self.change
        if change is None or change.decided:
            self._use_logs()
        else:
            change.later(Phase.TAKE, self._use_logs)

    def _use_logs(self) -> None:
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

    def changing(self) -> "Changing":
        """A change, or the one that is under way, which this becomes a part of. What is in the block does not wait."""
        return Changing(self)

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
        pool = Pool(name, self.changing)
        pool.settled = self.nodefiles.settle
        with self.changing() as change:
            self.pools[name.lower()] = pool
            change.undo(self.pools.pop, name.lower())
        return pool

    def drop_service(self, service: Service) -> None:
        """A service goes, with its listener, its plugins and its idle connections; what is in progress finishes.

        Raises: ConfigError while another service names it: its default_service, or a rule of a plugin. Where a rule had nobody to send
        requests to, others would answer them, and not ask who is to be kept out.
        """
        with self.changing() as change:
            change.undo(restore, self.services, dict(self.services))
            change.undo(self._going.clear)
            del self.services[service.name.lower()]
            self._going.append(service.name)
            change.later(Phase.CHECK, self._refuse_if_named)
            change.then(self._dropped, service)

    def _refuse_if_named(self) -> None:
        going = {name.lower(): name for name in self._going if name.lower() not in self.services}
        self._going.clear()
        for other in self.services.values() if going else ():
            default = going.get((other["default_service"] or "").lower())
            if default is not None:
                raise ConfigError(f"service '{default}' is the default_service of '{other.name}'", about=default, kind=Kind.CONFLICT)
            for name, plugin in other.plugins:
                targets = telling.targets(other, name, plugin) or ()
                named = next((going[target.lower()] for target in targets if target.lower() in going), None)
                if named is not None:
                    why = f"plugin {name} sends requests of '{other.name}' to it: see {self._where_named(other, name, named)}"
                    raise ConfigError(f"service '{named}' stays: {why}", about=named, kind=Kind.CONFLICT)

    def _where_named(self, service: Service, plugin: str, name: str) -> str:
        """Where a plugin of a service has the name of another from: a tunable of its own, else a statement."""
        own = {tunable.name for tunable in self.plugins[plugin].plugin_class.tunables}
        said = [tunable for tunable, text in service.explicit.items() if tunable in own and text.lower() == name.lower()]
        return f"SET {service.name}.{said[0]}" if said else f"show rules {service.name}, and DROP RULE"

    def _dropped(self, service: Service) -> None:
        if self.runtime is not None:
            self.runtime.unlisten(service)
        service.stand(Standing.DISABLED)
        service.disabled()
        service.close()
        client: Connected
        for client in list(self.clients):
            if client.home is service:  # a selector's stays, wherever its last request went
                client.shutdown(True)
        if service.access is not None:
            self.settle_logs()

    def drop_pool(self, pool: Pool) -> None:
        """A pool goes. Raises: ConfigError while a service uses it."""
        with self.changing() as change:
            change.undo(restore, self.pools, dict(self.pools))
            del self.pools[pool.name.lower()]
            change.later(Phase.CHECK, self._refuse_if_used, pool)

    def _refuse_if_used(self, pool: Pool) -> None:
        for service in self.services.values():
            if pool.name.lower() in map(str.lower, service.pools()) and self.pools.get(pool.name.lower()) is not pool:
                raise ConfigError(f"pool '{pool.name}' is used by service '{service.name}'", about=pool.name, kind=Kind.CONFLICT)

    def refuse_known(self, tunables: tuple[Tunable, ...], former: frozenset[str] = frozenset()) -> None:
        """Raises: ConfigError if a tunable of a plugin is known from elsewhere. `former`: those of the plugin's generation before."""
        for tunable in tunables:
            if tunable.name in self.tunables and tunable.name not in former:
                raise ConfigError(f"tunable '{tunable.name}' exists already", about=tunable.name, kind=Kind.EXISTS_ALREADY)

    def refuse_counters(self, plugin: str, counters: Sequence[Counter], instead: Mapping[str, Sequence[Counter]] | None = None) -> None:
        """Raises: ConfigError if a counter of a plugin is one of pbal or of another plugin: two would count into one number.

        `instead`: those that plugins will have, where they are reloaded together with this one.
        """
        known = dict.fromkeys((each.name for each in (*CORE, *COLLECTED)), "pbal")
        for name, of in {**{name: loaded.plugin_class.counters for name, loaded in self.plugins.items()}, **(instead or {})}.items():
            if name != plugin:
                known.update((each.name, f"the plugin {name}") for each in of)
        for counter in counters:
            if counter.name in known:
                raise ConfigError(f"there is a counter '{counter.name}' of {known[counter.name]} already", about=counter.name)

    def refuse_roles(self, plugin: str, roles: Sequence[OwnRole]) -> None:
        """Raises: ConfigError if another plugin brings one of these roles."""
        for each in roles:
            known = self.own_roles.get(each.role.name)
            if known is not None and known[0] != plugin:
                raise ConfigError(f"role '{each.role.name}' is brought by the plugin {known[0]} already", about=plugin)

    def bring_roles(self, plugin: str, roles: Sequence[OwnRole]) -> None:
        """These are the roles that a plugin brings, from here on."""
        self.own_roles = {name: known for name, known in self.own_roles.items() if known[0] != plugin}
        self.own_roles |= {each.role.name: (plugin, each) for each in roles}
        self.roles = ROLES | {name: own.role for name, (_, own) in self.own_roles.items()}
        self.tunables["role"] = role_tunable(self.roles)

    def own_role(self, name: str) -> tuple[str, OwnRole]:
        """The plugin that brings a role, and the role."""
        return self.own_roles[name]

    def of_role(self, names: Sequence[str]) -> list[str]:
        """The names of the services with one of these roles."""
        return [service.name for service in self.services.values() if service.role in names]

    def add_tunable(self, tunable: Tunable) -> None:
        """Make a tunable of a plugin known, with its default on every service."""
        self.tunables[tunable.name] = tunable
        if self.server["compatible"] == "perlbal" and tunable.perlbal is not None:
            self.settings.standards[tunable.name] = tunable.perlbal
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
            if (
                other is not None
                and other.enabled
                and other is not service
                and other.values["listen"] == listen
                and other.datagrams == service.datagrams
            ):
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
