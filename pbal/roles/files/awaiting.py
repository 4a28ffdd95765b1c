"""Sinks of exchanges that are answered with files, as far as they are alike: their bodies mean nothing, and most wait for a thread."""

from collections.abc import Callable
from typing import Generic, TypeVar

from pbal.model.exchange import Exchange
from pbal.model.sink import Sink

T = TypeVar("T")
Then = Callable[[Exchange, T | None, BaseException | None], None]
"""Told of what was found, or of what was raised. Who needs a file for longer than its call holds it itself."""


class Bodiless(Sink):
    """The sink of an exchange whose body means nothing: it came with a GET."""

    __slots__ = ()

    def body_data(self, data: bytes) -> None:
        """See Bodiless."""

    def body_end(self) -> None:
        """See Bodiless."""


class Awaiting(Bodiless, Generic[T]):
    """The sink of an exchange whose answer is looked for. `then` is told of what was found or raised, unless the client has left."""

    __slots__ = ("_exchange", "_then", "gone")

    def __init__(self, exchange: Exchange, then: Then[T]) -> None:
        self._exchange, self._then = exchange, then
        self.gone = False
        exchange.sink = self

    def tell(self, found: T | None, error: BaseException | None) -> None:
        """The search is over."""
        if not self.gone:
            self._exchange.sink = None
            self._then(self._exchange, found, error)

    def client_gone(self) -> None:
        self.gone = True

    def client_drained(self) -> None:
        """Nothing is sent yet."""

    def client_full(self) -> None:
        """Nothing is sent yet."""
