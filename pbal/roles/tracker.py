"""upload_tracker: hears by UDP how far uploads have come, and keeps it for who asks (model/progress.py). It answers no HTTP."""

from pbal.http1.reader import Limits
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.handling import RoleHandler
from pbal.model.progress import read
from pbal.model.service import Service


class UploadTracker(RoleHandler):
    """The handler of one upload_tracker service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.limits = Limits()

    def received(self, datagram: bytes, peer: str) -> None:
        """A datagram came, from `peer` as it says."""
        world = self.service.world
        progress = read(datagram)
        if progress is not None and world.uploads.add(progress):
            return
        reason = "there are too many sessions" if progress is not None else "it is not UPLOAD:SESSION:DONE:TOTAL:STARTTIME:NOWTIME"
        world.counters.counts["upload_datagrams_refused"] += 1
        world.log_limited(
            f"datagram {self.service.name}",
            "service %(service)s: a datagram from %(client)s was dropped: %(reason)s",
            {"event": "datagram_refused", "service": self.service.name, "client": peer, "reason": reason},
        )

    def begin(self, exchange: Exchange) -> None:
        """See RoleHandler. Only a selector could hand one on."""
        raise ConfigError("an upload_tracker answers no requests")

    def changed(self, tunable: str) -> None:
        """See RoleHandler."""

    def tick(self, now: float) -> None:
        """See RoleHandler."""
        self.service.world.uploads.forget(now)

    def close(self) -> None:
        """See RoleHandler. Its listener is the server's."""
