"""What a request whose response is being decided on can do with it; who decides stands in decider.py."""

from abc import abstractmethod

from pbal.http1.events import ResponseHead
from pbal.model.exchange import Exchange
from pbal.model.pool import Node, Pool
from pbal.roles.proxy.seeker import Seeker


class Undecided(Seeker):
    """A request whose response is being decided on."""

    exchange: Exchange
    node: Node | None
    """Whose response it is."""

    @property
    @abstractmethod
    def again_is_safe(self) -> bool:
        """Whether the request may be sent once more: RFC 9110 section 9.2.2, and its body is still at hand."""

    @abstractmethod
    def part(self, head: ResponseHead) -> None:
        """Drop the response. The exchange is the decider's."""

    @abstractmethod
    def again(self, head: ResponseHead, delay: float, pool: Pool | None) -> None:
        """Drop the response, and send the request again in `delay` seconds: to `pool`, or to where it went.

        The service has to name the pool (Service.pools), also when `delay` is over: else the request goes where its rules say.
        """
