"""The context statements run in: one a console connection, one a file."""

from typing import TYPE_CHECKING, Any, Protocol

from pbal.lang.ast import Statement
from pbal.lang.mistakes import Mistake, Place, positioned
from pbal.model.errors import ConfigError
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.world import World
from pbal.schema.commands import CommandError
from pbal.schema.kinds import Key, Kind, Severity
from pbal.schema.pools import OF_POOLS

if TYPE_CHECKING:
    from pbal.commands.interpreter import Interpreter


class Reading(Protocol):
    """A configuration file on its way."""

    def include(self, files: str) -> None:
        """Read other files next. Raises: CommandError."""


class Session:
    """Which object is current, whether OK is said, and who speaks."""

    __slots__ = (
        "_current", "broken", "closing", "console", "interpreter", "json", "marker", "origin", "reading", "statement", "verbose",
        "view_width", "warnings", "who", "world",
    )  # fmt: skip

    def __init__(self, world: World, interpreter: "Interpreter", origin: str, verbose: bool = True) -> None:
        self.world = world
        self.interpreter = interpreter
        self.origin = origin
        self.verbose = verbose
        self.closing = False
        self.console: Service | None = None
        """The management service that it came by; None for what comes by none."""
        self.who = ""
        """Who speaks, for the log: an address, and the name that they said."""
        self._current: Service | Pool | None = None
        self.broken = False
        """In a file: the statement that should have made an object current failed, so that none is right now."""
        self.statement: Statement | None = None
        """The one that is carried out, or was last."""
        self.reading: Reading | None = None
        """The file that is read; None on a console."""
        self.warnings: list[Mistake] = []
        """What was said of it, and did not refuse it."""
        self.marker = ""
        """What ends an answer (MARK)."""
        self.json = False
        """Every answer is JSON (MARK JSON)."""
        self.view_width = 0
        """Columns of the terminal that people read on (TERMINAL); 0 where a script reads."""

    @property
    def only_looks(self) -> str:
        """Why it may change nothing, '' if it may."""
        console = self.console
        return f"this console only looks (SET {console.name} readonly = on)" if console is not None and console["readonly"] else ""

    def made(self, rule: str, *arguments: str) -> object:
        """What was made for a statement in a thread (schema.commands.ahead), or the CommandError that came of it. None: nothing was."""
        return self.interpreter.made.get((rule, *arguments))

    def warn(self, message: str, arg: str = "", hint: str = "", kind: Kind = Kind.REFUSED, against: Key = ()) -> None:
        """Say something about the statement that is carried out, and carry it out. `arg` names the argument to underline."""
        if self.statement is not None:
            error = CommandError(message, arg, hint, kind=kind, against=against)
            warning = positioned(error, self.statement, self.interpreter.places)
            warning.severity = Severity.WARNING
            self.warnings.append(warning)

    def note(self, *key: str) -> None:
        """Remember where the statement stands that is carried out: a mistake may collide with it. See schema.kinds.Key."""
        places, said = self.interpreter.places, self.statement
        if said is not None and said.file:
            places[key] = Place(said.file, said.line, *said.extent)
        else:
            places.pop(key, None)

    @property
    def current(self) -> Service | Pool | None:
        """What was made or named last; None once it is dropped, on whichever console."""
        current = self._current
        if current is None or current in (self.world.services.get(current.name.lower()), self.world.pools.get(current.name.lower())):
            return current
        return None

    @current.setter
    def current(self, made: Service | Pool | None) -> None:
        self._current = made

    @property
    def live(self) -> bool:
        """Whether the World is being served."""
        return self.world.runtime is not None

    def target(self, tunable: str, named: Service | Pool | None) -> Service | Pool:
        """What a tunable is set on: what was named, or the current object; the pool of two with one name, if a pool has it.

        Raises: CommandError if nothing is current.
        """
        target = named or self.current
        if target is None:
            message = "omitted service/pool name not implied from context"
            raise CommandError(message, "tunable", "CREATE or USE one first", kind=Kind.NEEDS_OTHER_FIRST)
        if isinstance(target, Service) and tunable.lower() in OF_POOLS:
            named = target["pool"] if tunable.lower() == "nodefile" else None  # which Perlbal takes on a service, for its pool
            return self.world.pools.get((named or target.name).lower(), target)
        return target

    def on_selector(self, plugin: str, selector: Service | None) -> Any:
        """The plugin of a selector: of the one that was named, or of the current object. Raises: ConfigError if it has none."""
        service = selector or self.service()
        if service.role != "selector":
            raise ConfigError(f"service '{service.name}' is not a selector service", about=service.name)
        return self.on_service(plugin, service)

    def on_service(self, plugin: str, named: Service | None = None) -> Any:
        """The plugin of a service: of the one that was named, or of the current object. Raises: ConfigError if it has none."""
        service = named or self.service()
        instance = service.plugin(plugin)
        if instance is None:
            raise ConfigError(f"service '{service.name}' does not have the plugin {plugin}: SET plugins = {plugin}", about=service.name)
        return instance

    def service(self) -> Service:
        """The current object, if it is a service. Raises: ConfigError."""
        if not isinstance(self.current, Service):
            raise ConfigError("omitted service name not implied from context: CREATE SERVICE or USE one first")
        return self.current

    def runtime(self) -> Any:
        """The running server. Raises: ConfigError in a file."""
        if self.world.runtime is None:
            raise ConfigError("only on the console of a running pbal")
        return self.world.runtime
