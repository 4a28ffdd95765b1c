"""What a plugin is. One instance a service, no module state: two services never share by accident.

Life of an instance:   __init__ -> check -> open -> (hooks, changed) -> close
Life over a RELOAD:    the new file is imported beside the old and checked; then, for every service that uses it,
                       old.quiesce() -> new = New(service, world) -> new.check() -> new.adopt(old.carry()) -> new.open()
                       -> the chain is swapped -> old.close(). A failure before the swap leaves the old one serving.
quiesce() may wait (a store call in flight); from carry() to the swap nothing waits, so nothing falls between.
What carry() returns is plain data - tuples, dicts, client connections - and never an instance of the old classes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pbal.model.exchange import Exchange
from pbal.observe.counters import Counter
from pbal.schema.tunables import Tunable

if TYPE_CHECKING:
    from pbal.model.service import Service
    from pbal.model.world import World


class Plugin:
    """Base of every plugin."""

    tunables: ClassVar[tuple[Tunable, ...]] = ()
    counters: ClassVar[tuple[Counter, ...]] = ()
    roles: ClassVar[frozenset[str]] = frozenset()
    """Roles it may be set on; empty: any."""
    commands: ClassVar[tuple[Callable[..., Any], ...]] = ()
    """Handlers of the statements its grammar fragment adds, named after their rules."""
    grammar: ClassVar[str] = ""
    """The fragment's text. Empty: grammar/plugins/NAME.lark, or NAME.lark beside the plugin's file, where there is one."""

    def __init__(self, service: "Service", world: "World") -> None:
        self.service = service
        self.world = world
        self.counts = world.counters.counts

    def check(self) -> None:
        """Refuse settings that do not fit together, with ConfigError. Called before open and after every SET."""

    def open(self) -> None:
        """Take resources: the service is enabled and the loop runs."""

    def changed(self, tunable: str) -> None:
        """A tunable of the service was set while the plugin is open. Takes effect before this returns."""

    async def quiesce(self) -> None:
        """Before a reload: let what is in flight come to rest, in bounded time. Hooks go on being called."""

    def carry(self) -> Any:
        """Plain data for the next generation. Changes nothing here: the reload may still fail."""
        return None

    def resume(self) -> None:
        """A reload failed after quiesce(), perhaps after carry(): what was handed over is this instance's again."""

    def adopt(self, carried: Any) -> None:
        """Take over what the previous generation carried."""

    def close(self) -> None:
        """Give everything back. After a reload: whatever carry() handed over is no longer this instance's."""

    def service_disabled(self) -> None:
        """The service stops listening: answer what is parked. Hooks may still be called for open connections."""

    def wants_body(self, exchange: Exchange) -> bool:
        """Asked at the head, for a plugin with proxy_read_request, of a request that has a body: False when this plugin
        does not need it whole.
        """
        return True

    def dumpconfig(self) -> tuple[str, ...]:
        """Statements, beside tunables, that make this state again."""
        return ()
