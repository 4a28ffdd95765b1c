"""What passed a service: requests, answers by class of status, bytes of bodies, and how long it took."""

from pbal.observe.histogram import Histogram

CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx")
"""By the first digit of a status; nodes may say any. `none`: no answer had begun."""


class Traffic:
    """The numbers of one service, from its making on. Each is added to where a request ends, and nowhere else."""

    __slots__ = ("latency", "parked", "received", "sent", "statuses")

    def __init__(self) -> None:
        self.statuses: list[int] = [0] * len(CLASSES)
        """Answers by the first digit of their status; of what is parked when they begin."""
        self.parked = 0
        """Requests that are parked now, and no answer to them has begun."""
        self.received = 0
        """Octets of request bodies."""
        self.sent = 0
        """Octets of response bodies."""
        self.latency = Histogram()

    @property
    def requests(self) -> int:
        """All requests: answered, lost, or parked."""
        return sum(self.statuses) + self.parked
