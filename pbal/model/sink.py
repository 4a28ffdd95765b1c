"""Who has an exchange, as its client's connection sees it. One at a time: it is told what comes, and last that the client has gone."""

from abc import ABCMeta, abstractmethod


class Sink(metaclass=ABCMeta):
    """Who has an exchange: where the octets of its body go, and who hears of its client."""

    @abstractmethod
    def body_data(self, data: bytes) -> None:
        """Octets of the request body, or of a tunnel."""

    @abstractmethod
    def body_end(self) -> None:
        """The request body is complete; in a tunnel: the client will send no more."""

    @abstractmethod
    def client_gone(self) -> None:
        """Nobody waits for the answer any more. The last call."""

    @abstractmethod
    def client_drained(self) -> None:
        """The client took what was waiting for it: a paused sender may go on."""

    @abstractmethod
    def client_full(self) -> None:
        """More is waiting for the client than buffer_size: the sender should pause."""
