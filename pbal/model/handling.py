"""What a role does with the exchanges of a service; roles/registry.py makes one for each service that is reachable."""

from abc import ABCMeta, abstractmethod

from pbal.http1.reader import Limits
from pbal.model.asking import Question
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange


class RoleHandler(metaclass=ABCMeta):
    """What a role does; made by the server when the service is first reachable."""

    limits: Limits
    """What requests may be, for connections of the service's listener."""

    def arrive(self, exchange: Exchange) -> None:
        """An exchange came in by this service's own listener."""
        self.begin(exchange)

    @abstractmethod
    def begin(self, exchange: Exchange) -> None:
        """An exchange arrived, here or at a selector: answer it, now or later."""

    def read_first(self, exchange: Exchange) -> None:
        """Have the body of an exchange come, and then begin with it again. Raises: ConfigError where the role reads none."""
        raise ConfigError("this role reads no bodies")

    def ask(self, question: Question) -> None:
        """Bring a question to a node. Raises: ConfigError where the role has none."""
        raise ConfigError("only a reverse_proxy has nodes to ask")

    def load(self) -> tuple[int, int, int]:
        """Clients that wait for a connection to a node; connections to nodes that are being opened; those kept for the next request."""
        return 0, 0, 0

    def queues(self) -> dict[str, tuple[int, int]]:
        """Of each class of clients that wait for a connection to a node: how many, and for how many seconds the first has waited.

        The classes are "normal", "highpri" and "lowpri". Empty where the role has no nodes.
        """
        return {}

    @abstractmethod
    def changed(self, tunable: str) -> None:
        """A tunable was set live."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """Called once a second."""

    @abstractmethod
    def close(self) -> None:
        """The service is going: give back what the role holds."""
