"""A service: a name, a role, settings and a chain of plugins. It holds configuration; not connections, not queues.

`values` always has an entry for every tunable that exists, so the hot path reads `service.values["idle_timeout"]`
and never asks whether it was set. `explicit` remembers which were, and in what words, for dumpconfig.
"""

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pbal.config.spec import Standing
from pbal.http1.coding import Coding
from pbal.model.asking import OnAnswer, Question
from pbal.model.certificates import Certificates, read
from pbal.model.chained import Chained
from pbal.model.change import Phase
from pbal.model.conditions import Look, slow_looks
from pbal.model.errors import ConfigError, bad_value
from pbal.model.exchange import Exchange
from pbal.model.faults import asked, guarded
from pbal.model.fitting import check_backend_tls, check_needs, check_role, refuse_rules
from pbal.model.forwarding import NAMES as FORWARDING_NAMES
from pbal.model.forwarding import Forwarding, forwarding_of
from pbal.model.handling import RoleHandler
from pbal.model.limiting import Limit
from pbal.model.pace import Rate
from pbal.model.plugin import Plugin
from pbal.model.rules import NO_RULES, Rules
from pbal.model.settings import asks_for_nothing
from pbal.model.trust import Trust
from pbal.observe.access import AccessLog
from pbal.observe.tracer import Tracer
from pbal.observe.traffic import Traffic
from pbal.observe.writer import Rotation
from pbal.schema import perlbal
from pbal.schema.kinds import Kind, Needed
from pbal.schema.roles import Role
from pbal.schema.said import Said
from pbal.schema.tunables import LOGGING, OF_SOCKET, Tunable
from pbal.schema.types import either

if TYPE_CHECKING:
    from pbal.model.world import World

log = logging.getLogger("pbal")

_ROLE_FIRST = Needed("set", "role")
_POOLS = frozenset({"pool", "fallback_pool"})
NOBODY: Final = {"normal": (0, 0), "highpri": (0, 0), "lowpri": (0, 0)}
"""Who waits where nobody does."""


class _Told:
    """Which plugins have heard of a value."""

    def __init__(self) -> None:
        self.plugins: list[tuple[str, Plugin]] = []


class Service(Chained):
    """One named service."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name, world)
        self.standing = Standing.NEW
        self.enabled = False
        """Whether `standing` is ENABLED: asked for every request."""
        self.values: dict[str, Any] = world.settings.fresh_values()
        self.explicit: dict[str, str] = {}
        self.defaults: dict[str, str] = dict(world.defaults)
        """The DEFAULTs that were in force when it was made. Later ones do not reach back."""
        self.extra: dict[str, str] = {}
        """What SET service.extra.NAME said, for plugins to read."""
        self.rules = NO_RULES
        """What HEADER, ROUTE and REWRITE say."""
        self.handler: RoleHandler | None = None
        self.certificates: Certificates | None = None
        """With enable_ssl, from ENABLE on. Replaced whole when they are read again."""
        self.handshakes = Rate(world.clock.now)
        self.label: bytes = name.encode()
        self.traffic: Traffic = Traffic()
        self.tracer: Tracer | None = world.tracer
        """Whom events are told; None while nobody follows anything."""
        self.access: AccessLog | None = None
        """Where lines of its requests go; None where no log is, and before pbal runs."""
        self.limiting: tuple[Limit, ...] = ()
        self.slow_limits: tuple[Look, ...] = ()
        """What is looked at in a bounded time before any of them counts."""
        """What LIMIT says, in that order."""
        self.coding: Coding | None = None
        """How responses are compressed; None where they are not."""
        self.numbered = self.traces = False
        """Whether requests have ids for others to see (request_id), and traces begin here (traceparent)."""
        self.trust = Trust(self.values["always_trusted"], self.values["trusted_upstream_proxies"])
        self.forwarding: Forwarding | None = forwarding_of(self.values)
        """What nodes are told beside X-Forwarded-For; None where that is nothing."""

    def stand(self, standing: Standing) -> None:
        """ENABLE or DISABLE was carried out."""
        self.standing = standing
        self.enabled = standing is Standing.ENABLED

    @property
    def datagrams(self) -> bool:
        """Whether it listens to UDP."""
        return self.declared is not None and self.declared.datagrams

    @property
    def declared(self) -> Role | None:
        """What is declared of its role; None while it has none."""
        return self.world.roles[self.role] if self.role else None

    @property
    def answers_http(self) -> bool:
        """Whether its role answers HTTP."""
        return self.declared is not None and self.declared.http

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def reading(self, name: str) -> Any:
        """What the file holds that a tunable names (Tunable.reads); None where it names none. Raises: ConfigError."""
        value = self.values[name]
        return None if value is None else self.world.readings.of(self.world.tunables[name], value)

    def fill(self, tunable: Tunable) -> None:
        """Give a tunable its default here, unless it was set."""
        if tunable.name not in self.explicit:
            text = self.defaults.get(tunable.name, self.world.settings.standard(tunable))
            self.values[tunable.name] = None if text is None else self.world.settings.parsed(tunable, text)
            self._derive(tunable.name)

    def said(self, name: str) -> bool:
        """Whether an operator said what a tunable is, by SET or DEFAULT."""
        return name in self.explicit or name in self.defaults

    def shown(self, name: str) -> str:
        """What a tunable is, for people: as it was written where its value is not for them; "" where it is unset."""
        text = self.explicit.get(name, self.defaults.get(name, ""))
        if isinstance(text, Said):
            return text.written
        value = self.values[name]
        return "" if value is None else self.world.tunables[name].type.render(value)

    def use_rules(self, rules: Rules) -> None:
        """Go by these from now on. Raises: ConfigError where one would have no effect."""
        refuse_rules(self.name, self.declared, rules)
        with self.world.changing() as change:
            change.undo(setattr, self, "rules", self.rules)
            self.rules = rules
            change.then(self._settle, "rules")

    def pools(self) -> set[str]:
        """The names of the pools that it may send requests to."""
        named = {self.values[name] for name in _POOLS if self.values.get(name) is not None}
        if self.hooks.select_pool:
            named |= self.pools_of_plugins()
        return named | {route.pool.name for route in self.rules.routes}

    def add_limit(self, limit: Limit) -> None:
        """A LIMIT statement; the same twice is one. Raises: ConfigError where the service answers no requests."""
        if not self.role:
            raise ConfigError("SET role before LIMIT", about=self.name, kind=Kind.NEEDS_OTHER_FIRST, needs=_ROLE_FIRST)
        if not self.answers_http:
            raise ConfigError(f"LIMIT has no effect on a {self.role}, which answers no HTTP", about=self.name, kind=Kind.CONFLICT)
        if not any(limit.same(other) for other in self.limiting):
            self._use_limits((*self.limiting, limit))

    def drop_limit(self, limit: Limit) -> None:
        """The limit holds no longer."""
        self._use_limits(tuple(other for other in self.limiting if other is not limit))

    def _use_limits(self, limits: tuple[Limit, ...]) -> None:
        with self.world.changing() as change:
            change.undo(self._put_limits, self.limiting)
            self._put_limits(limits)

    def _put_limits(self, limits: tuple[Limit, ...]) -> None:
        self.limiting = limits
        self.slow_limits = slow_looks([limit.when for limit in limits])

    def begin(self, exchange: Exchange) -> None:
        """Hand an exchange to the role. A service that was dropped while its head came has nobody left who would answer.

        Raises: ConfigError if the role answers no requests.
        """
        if self.handler is None:
            raise ConfigError(f"service '{self.name}' (role {self.role or 'none'}) answers no requests")
        if not self.opened:
            exchange.error(503, b"The service for this is gone.\n")
            return
        self.handler.arrive(exchange)

    def ask(self, target: bytes, fields: list[tuple[bytes, bytes]], tell: OnAnswer, timeout: float) -> None:
        """Ask a node of the service's pool: GET `target` with these fields. `tell` gets a NodeAnswer, or in `timeout` seconds a NoAnswer.

        pbal adds Host, Via and what HEADER statements say, keeps the connection for other requests, and asks another node where the
        first one cannot be reached. It calls `tell` once, after this has returned.
        Raises: IllegalField; ConfigError if the service is no reverse_proxy.
        """
        if self.handler is None:
            raise ConfigError(f"service '{self.name}' is not enabled")
        self.handler.ask(Question(target, fields, tell, timeout))

    def queues(self) -> dict[str, tuple[int, int]]:
        """Who waits for a connection to a node, by class (normal, highpri, lowpri): number, and seconds that the first of them has waited.

        Nobody waits where the service is no reverse_proxy, or was never enabled.
        """
        return NOBODY | ({} if self.handler is None else self.handler.queues())

    def set(self, name: str, text: str) -> None:
        """Set a tunable from its text, whole or not at all.

        Raises: UnknownName, ConfigError.
        """
        if name.lower() not in self.world.tunables and asks_for_nothing(perlbal.SERVICE, name, text):
            return
        tunable = self.world.tunable(name, self)
        name = tunable.name
        if tunable.roles and self.role not in tunable.roles:
            roles = either(sorted(tunable.roles))
            if not self.role:
                message = f"'{name}' can only be set on a {roles} service: SET role first"
                raise ConfigError(message, about=name, kind=Kind.NEEDS_OTHER_FIRST, needs=_ROLE_FIRST)
            message = f"'{name}' is not a tunable of role {self.role}; it belongs to {roles}"
            raise ConfigError(message, about=name, kind=Kind.CONFLICT, against=("set", self.name.lower(), "role"))
        try:
            value = tunable.parse(text)
        except ValueError as error:
            if name == "role" and text.lower() in perlbal.ROLES:
                plugin = perlbal.ROLES[text.lower()]
                message = f"role '{text}' comes with the plugin {plugin}: LOAD {plugin} first"
                raise ConfigError(message, about=text, kind=Kind.NEEDS_OTHER_FIRST, needs=Needed("load", plugin)) from None
            raise bad_value(name, text, error, tunable.type.choices) from None
        if name in _POOLS and value is not None:
            value = self.world.pool(value).name
        if name == "default_service" and value is not None:
            value = self.world.target(value)
        self._apply(name, value, text)

    def set_extra(self, name: str, text: str | None) -> None:
        """Keep a text for plugins; None takes it back. Raises: ConfigError if there is none to take back."""
        if text is None and name not in self.extra:
            raise ConfigError(f"extra.{name} was not set on '{self.name}'", about=f"extra.{name}")
        with self.world.changing() as change:
            change.undo(setattr, self, "extra", self.extra)
            self.extra = {key: value for key, value in self.extra.items() if key != name}
            if text is not None:
                self.extra[name] = text

    def unset(self, name: str) -> None:
        """Give a tunable its default again: what DEFAULT says now, else pbal's. Raises: UnknownName, ConfigError."""
        tunable = self.world.tunable(name, self)
        name = tunable.name
        if name == "role":
            raise ConfigError(f"service '{self.name}' has role {self.role}: a role stays", about=name)
        if not tunable.fits(self.role):
            raise ConfigError(f"'{name}' is not a tunable of role {self.role or 'none'}", about=name)
        default = self.world.defaults.get(name)
        if name not in self.explicit and self.defaults.get(name) == default:
            raise ConfigError(f"{name} was not set on '{self.name}'", about=name)
        with self.world.changing() as change:
            change.undo(self._use_default, name, self.defaults.get(name))
            self._use_default(name, default)
            text = self.world.settings.standard(tunable) if default is None else default
            self._apply(name, None if text is None else tunable.parse(text), None)

    def _use_default(self, name: str, text: str | None) -> None:
        if text is None:
            self.defaults.pop(name, None)
        else:
            self.defaults[name] = text

    def _apply(self, name: str, value: Any, text: str | None) -> None:
        """Put a value in place; `text` is what was said, None for a default."""
        live = self.world.runtime is not None
        with self.world.changing() as change:
            told = _Told()
            change.undo(self._tell_again, told, name)  # when the values are back
            if name in LOGGING and live:
                change.undo(self._log_again)
            if name in OF_SOCKET and live:
                change.undo(self._refresh_again)
            if name == "role":
                change.undo(setattr, self, "role", self.role)
                self._set_role(value)
            if name == "plugins":
                self._set_plugins(value, change)
            change.undo(self._put_back, name, self.values.get(name), self.explicit.get(name))
            self._put_back(name, value, text)
            if name == "plugins_before_guards":
                self._set_plugins(self.values["plugins"], change)
            if self.opened:
                change.later(Phase.CHECK, self._check_open)
            if name.startswith("ssl_backend"):
                change.later(Phase.CHECK, self._check_backend_tls)
            if self.enabled:
                change.later(Phase.CHECK, self._check_role)
            if name in LOGGING and live:
                change.later(Phase.TAKE, self.open_log)
            if name in OF_SOCKET and live:
                change.later(Phase.TAKE, self._refresh)
            if name == "listen" and self.enabled:
                change.later(Phase.CHECK, self.world.check_address, self)
                self.world.bind(self, change)
            if self.opened:
                change.later(Phase.TELL, self._tell, told, name)
            change.then(self._settle, name)

    def instance(self, plugin_class: type[Plugin]) -> Plugin:
        """See Chained."""
        return plugin_class(self, self.world)

    def _check_open(self) -> None:
        """See Chained."""
        self._check_needs()
        self.check_plugins()

    def _tell(self, told: "_Told", name: str) -> None:
        for owner, plugin in self.plugins:
            told.plugins.append((owner, plugin))
            asked(self.world, owner, plugin.changed, name)

    def _put_back(self, name: str, value: Any, text: str | None) -> None:
        """A tunable is `value`, which was said as `text`, or not at all."""
        self.values[name] = value
        if name == "listen" and value is not None:
            self.world.addressed.setdefault(value, set()).add(self.name.lower())
        if text is None:
            self.explicit.pop(name, None)
        else:
            self.explicit[name] = text

    def _log_again(self) -> None:
        """The access log as it was before a statement that was refused."""
        with suppress(ConfigError):  # what refused the statement is told
            self.open_log()

    def _refresh(self) -> None:
        """The listener, as the tunables have it now. Raises: ConfigError."""
        if self.world.runtime is not None:
            self.world.runtime.refresh(self)

    def _refresh_again(self) -> None:
        """The listener as it was before a statement that was refused."""
        with suppress(ConfigError):  # what refused the statement is told
            self._refresh()

    def _tell_again(self, told: "_Told", name: str) -> None:
        """Plugins that heard of a value which was refused hear that it is the old one."""
        for owner, plugin in told.plugins:
            if (owner, plugin) in self.plugins:
                with suppress(ConfigError):  # what refused the statement is told
                    asked(self.world, owner, plugin.changed, name)

    def _settle(self, name: str) -> None:
        """A tunable was set for good."""
        self._derive(name)
        if self.handler is not None:
            self.handler.changed(name)

    def _derive(self, name: str) -> None:
        """Bring up to date what is made of a tunable for the hot path."""
        if name in ("always_trusted", "trusted_upstream_proxies"):
            self.trust = Trust(self.values["always_trusted"], self.values["trusted_upstream_proxies"])
        elif name in FORWARDING_NAMES:
            self.forwarding = forwarding_of(self.values)

    def _set_role(self, role: str) -> None:
        if self.role and self.role != role:
            message = f"service '{self.name}' has role {self.role} already"
            raise ConfigError(message, about=role, kind=Kind.EXISTS_ALREADY, against=("set", self.name.lower(), "role"))
        refuse_rules(self.name, self.world.roles[role], self.rules)
        self.role = role

    def check(self) -> None:
        """Refuse to be opened without what the role and the plugins need."""
        if not self.role:
            raise ConfigError(
                f"service '{self.name}' has no role: SET role first", about=self.name, kind=Kind.NEEDS_OTHER_FIRST, needs=_ROLE_FIRST
            )
        self._check_needs()
        self.certificates = None
        if self.values["enable_ssl"]:
            self.use_certificates(read(self.values))
        self._check_backend_tls()
        self.check_plugins()

    def _check_needs(self) -> None:
        assert self.declared is not None
        for each in self.values["plugins_before_guards"] if "plugins_before_guards" in self.explicit else ():
            if self.plugin(each.lower()) is None:
                message = f"plugins_before_guards names '{each}', which is not in plugins of service '{self.name}'"
                raise ConfigError(message, about="plugins_before_guards", candidates=[name for name, _ in self.plugins])
        check_needs(self.name, self.declared, self.values, bool(self.hooks.select_service))
        self._check_role()

    def _check_role(self) -> None:
        assert self.declared is not None
        check_role(self.name, self.declared, self.values, self.world.server)

    def _check_backend_tls(self) -> None:
        check_backend_tls(self.values)

    def use_certificates(self, certificates: Certificates) -> None:
        """Handshakes begin with these from now on; what is odd about them is logged. Of a file that is read it is among its warnings."""
        self.certificates = certificates
        for warning in certificates.warnings if self.world.runtime is not None else ():
            log.warning("service %(service)s: %(text)s", {"event": "certificate_odd", "service": self.name, "text": warning})

    def open_log(self, settle: bool = True) -> None:
        """Open the access log, as the tunables have it now; what was open and is in use still stays open.

        `settle`: False where the caller calls world.settle_logs() for several services. Raises: ConfigError; nothing has changed then.
        """
        values = self.values
        where = values["access_log"]
        made: AccessLog | None = None
        if where != "off" and self.answers_http:
            try:
                target = self.world.access.open(where)
            except OSError as error:
                message = f"access_log: cannot write to {where}: {error.strerror}"
                raise ConfigError(message, about=where, kind=Kind.SYSTEM) from None
            made = AccessLog(target, values["access_log_format"], values["access_log_sample"], values["access_log_query"])
        changed = made is not None or self.access is not None
        self.access = made
        self.numbered = values["request_id"] == "on" or (values["request_id"] == "auto" and made is not None)
        self.traces = values["traceparent"] == "begin"
        if settle and changed:
            self.world.settle_logs()

    def rotation(self) -> Rotation:
        """When the file of its access log is rotated."""
        values = self.values
        return Rotation(values["access_log_rotate_size"], values["access_log_rotate_age"], values["access_log_rotate_keep"])

    def open(self) -> None:
        """Open the plugins, once. A failure closes those that had opened."""
        if self.opened:
            return
        self._open(self.plugins)
        self.opened = True

    def detach(self) -> None:
        """Give the role's handler up again: what would have been opened was not."""
        if self.handler is not None:
            self.handler.close()
            self.handler = None

    def selected(self) -> RoleHandler:
        """The handler, for a request that a selector hands on. A service that was never enabled is opened by the first.

        Raises: ConfigError if it answers no requests.
        """
        if not self.opened:
            self.world.open_for_selectors(self)
        if self.handler is None:
            raise ConfigError(f"service '{self.name}' (role {self.role or 'none'}) answers no requests")
        return self.handler

    def close(self) -> None:
        """Close plugins and role."""
        if self.opened:
            for name, plugin in self.plugins:
                guarded(self.world, name, plugin.close)
            self.opened = False
        if self.handler is not None:
            self.handler.close()
