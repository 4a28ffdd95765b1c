"""The context statements run in: one a console connection, one a file."""

from typing import TYPE_CHECKING, Any

from pbal.model.errors import ConfigError
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.world import World

if TYPE_CHECKING:
    from pbal.commands.interpreter import Interpreter


class Session:
    """Which object is current, whether OK is said, and who speaks."""

    __slots__ = ("broken", "closing", "current", "interpreter", "json", "marker", "origin", "proc", "verbose", "world")

    def __init__(self, world: World, interpreter: "Interpreter", origin: str, verbose: bool = True) -> None:
        self.world = world
        self.interpreter = interpreter
        self.origin = origin
        self.verbose = verbose
        self.closing = False
        self.current: Service | Pool | None = None
        self.broken = False
        """In a file: the statement that should have made an object current failed, so that none is right now."""
        self.marker = ""
        """What ends an answer (MARK)."""
        self.json = False
        """Every answer is JSON (MARK JSON)."""
        self.proc: tuple[float, float, int] | None = None

    @property
    def live(self) -> bool:
        """Whether the World is being served."""
        return self.world.runtime is not None

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
