"""What a plugin is. One instance a service, no module state: two services never share by accident.

Life of an instance:   __init__ -> check -> open -> (hooks, changed) -> close
Life over a RELOAD:    the new file is imported beside the old and checked; then, for every service that uses it,
                       old.quiesce() -> new = New(service, world) -> new.check() -> new.adopt(old.carry()) -> new.open()
                       -> the chain is swapped -> old.close(). A failure before the swap leaves the old one serving.
quiesce() may wait (a store call in flight); from carry() to the swap nothing waits, so nothing falls between.
What carry() returns is plain data - tuples, dicts, client connections - and never an instance of the old classes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pbal.model.conversation import OwnRole
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.explaining import Explanation
from pbal.observe.counters import Counter
from pbal.observe.histogram import Histogram
from pbal.observe.limits import Limit
from pbal.schema.tunables import Tunable

if TYPE_CHECKING:
    from pbal.model.service import Service
    from pbal.model.world import World


class Plugin:
    """Base of every plugin."""

    tunables: ClassVar[tuple[Tunable, ...]] = ()
    counters: ClassVar[tuple[Counter, ...]] = ()
    roles: ClassVar[frozenset[str]] = frozenset()
    """Roles of the services that may run it. Empty: any role."""
    conversations: ClassVar[tuple[OwnRole, ...]] = ()
    """Roles that it brings, which do not answer HTTP."""
    commands: ClassVar[tuple[Callable[..., Any], ...]] = ()
    """Handlers of the statements its grammar fragment adds, named after their rules."""
    before: ClassVar[tuple[str, ...]] = ()
    """Names of plugins before which its hooks run, whatever the order in SET plugins, also before those that guard."""
    after: ClassVar[tuple[str, ...]] = ()
    """Names of plugins after which its hooks run."""
    guards: ClassVar[bool] = False
    """Whether requests must not be served without it: an access rule. Its hooks that look at requests run before those of plugins that
    do not guard, whatever the order in SET plugins. If it fails too often (plugin_error_limit), the service answers 503 instead of going
    on without it."""
    guards_by_credentials: ClassVar[bool] = False
    """Whether it guards by what a request carries, such as a password or a cookie. A preflight of CORS carries nothing: plugins that answer
    it (answer_preflight) are asked first, and other plugins that guard before these."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Modules that its functions import, and what to install for each: {"PIL": "pbal[images]"}. LOAD refuses a plugin for which one is
    not there, in these words."""
    version: ClassVar[str] = ""
    """Which one it is, for the list of plugins. A plugin of a distribution has that one's version where it says nothing."""
    ordered_rules: ClassVar[bool] = True
    """Whether it matters in which order the statements of dumpconfig() are said."""
    grammar: ClassVar[str] = ""
    """The fragment's text. Empty: grammar/plugins/NAME.lark, or NAME.lark beside the plugin's file, where there is one."""

    def __init__(self, service: "Service", world: "World") -> None:
        self.service = service
        self.world = world
        self.counts = world.counters.counts

    def check(self) -> None:
        """Raise ConfigError if the tunables do not fit together. pbal calls this before open and after every SET."""

    def open(self) -> None:
        """Take resources. The service is enabled and the loop runs."""

    def changed(self, tunable: str) -> None:
        """Apply a tunable of the service that was set while the plugin is open. The change holds when this returns."""

    async def quiesce(self) -> None:
        """Before a reload, wait for what is in progress, for a bounded time. pbal goes on calling hooks."""

    def carry(self) -> Any:
        """Return plain data for the next generation. Change nothing here, because the reload may still fail."""
        return None

    def resume(self) -> None:
        """Go on after a failed reload. quiesce() was called, perhaps carry() too; what carry() returned belongs to this instance again."""

    def adopt(self, carried: Any) -> None:
        """Take over what carry() of the previous generation returned."""

    def close(self) -> None:
        """Release everything. After a reload, what carry() returned no longer belongs to this instance."""

    def targets(self) -> tuple[str, ...] | None:
        """Return the names of the services that this plugin may hand requests to, or None if it cannot say. These cannot be dropped."""
        return None

    def pools(self) -> tuple[str, ...]:
        """Return the names of the pools that this plugin may send requests to (select_pool). They must exist, and cannot be dropped."""
        return ()

    def service_disabled(self) -> None:
        """Answer what is parked, because the service stops listening. pbal may still call hooks for open connections."""

    def wants_body(self, exchange: Exchange) -> bool:
        """Return False if this plugin does not need the whole body of a request.

        pbal asks this at the head of each request with a body, if the plugin has proxy_read_request.
        """
        return True

    def explain(self, exchange: Exchange) -> Explanation | None:
        """Return what this plugin would do with a request that nobody sent, or None if it would let it pass.

        The console's `explain` asks this. Look at the exchange, and at nothing of a body; answer, hand on and change nothing.
        """
        return None

    def measured(self, name: str) -> Iterable[tuple[tuple[str, ...], float | Histogram]]:
        """The values of a counter declared with labels, or of a histogram: values of the labels, in their order, and the value.

        pbal asks this when somebody looks. A histogram is turned by pbal; keep it as long as the instance lives.
        """
        return ()

    def limits(self) -> Iterable[Limit]:
        """What of this service may fill up because of this plugin, for `show limits`."""
        return ()

    def complete(self, kind: str, word: str) -> Iterable[str]:
        """Return what an argument of this kind may be in the plugin's statements, for a person who has typed WORD of it.

        The kind is the name of the terminal in lower case. pbal asks every open service's plugin, and takes what begins like WORD.
        """
        return ()

    def dumpconfig(self) -> tuple[str, ...]:
        """Return the statements, other than those for tunables, that make this state again."""
        return ()

    def drop_rule(self, statement: str) -> None:
        """Take back one of the statements that dumpconfig() returns, given as it returns it. The change holds when this returns.

        A plugin with statements has this, so that DROP RULE and RELOAD CONFIG can change them one by one.
        """
        raise ConfigError(f"this plugin cannot take back '{statement}': SET plugins without it, and with it again")
