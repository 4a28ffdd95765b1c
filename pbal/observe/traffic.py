"""What passed a service: requests, answers by class of status, bytes of bodies, and how long it took."""

from pbal.observe.histogram import Histogram

CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx")
"""By the first digit of a status; nodes may say any. `none`: no answer had begun."""


class Traffic:
    """The numbers of one service, from its making on. Each is added to where a request ends, and nowhere else."""

    __slots__ = ("latency", "received", "requests", "sent", "statuses")

    def __init__(self) -> None:
        self.requests = 0
        self.statuses: list[int] = [0] * len(CLASSES)
        """Answers by the first digit of their status."""
        self.received = 0
        """Octets of request bodies."""
        self.sent = 0
        """Octets of response bodies."""
        self.latency = Histogram()
