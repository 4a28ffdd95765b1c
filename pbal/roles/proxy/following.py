"""Uploads whose client said a session: their progress is told to upload_status_listeners, and to clients that ask for it.

The tick tells it, once a second, so an octet that comes costs nothing; the beginning is told at once, and the end with the next tick, which
then lets go of the exchange. See model/progress.py for what is told.
"""

import socket
from itertools import islice
from typing import Final

from pbal.model.exchange import ENDED, Exchange
from pbal.model.progress import STATUS_PATH, Progress, session_of
from pbal.model.service import Service
from pbal.schema.types import Endpoint

PORTION: Final = 1000
"""Uploads told of in one tick: 5 ms. Where there are more, each is told of more seldom."""
MOST: Final = 10_000
"""Uploads that are followed at a time: strangers say sessions, and what is followed is remembered until a tick has told its end."""
_ANSWER: Final = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]


class Following:
    """Of one service."""

    def __init__(self, service: Service, listeners: tuple[Endpoint, ...]) -> None:
        self._service = service
        self._listeners = listeners
        self._sockets: dict[int, socket.socket] = {}
        self._uploads: dict[Exchange, tuple[bytes, int]] = {}
        """Session, and how many octets were told of; those told of longest ago first."""

    def __len__(self) -> int:
        return len(self._uploads)

    def answers(self, exchange: Exchange) -> bool:
        """Answer it if it asks for the progress of a session."""
        request = exchange.request
        if request.path != STATUS_PATH:
            return False
        session = session_of(request.query)
        if not session:
            return False
        exchange.respond(200, _ANSWER, self._service.world.uploads.json(session))
        return True

    def follow(self, exchange: Exchange) -> None:
        """Tell of its body from here on, if its client wants that."""
        if exchange not in self._uploads:
            session = session_of(exchange.request.query)
            if session and len(self._uploads) >= MOST:
                self._count_lost(f"{MOST} uploads are followed already", "anybody")
            elif session:
                self._uploads[exchange] = (session, exchange.received)
                self._tell(exchange, session)

    def tick(self) -> None:
        """Tell of those that have come further, and let go of those that have come or ended."""
        for exchange, (session, told) in list(islice(self._uploads.items(), PORTION)):
            del self._uploads[exchange]
            if not exchange.body_complete and exchange.stage is not ENDED:
                self._uploads[exchange] = (session, exchange.received)
            if exchange.received != told:
                self._tell(exchange, session)

    def _tell(self, exchange: Exchange, session: bytes) -> None:
        clock = self._service.world.clock
        epoch = clock.epoch()
        start = epoch - (clock.now() - exchange.started)
        total = exchange.received if exchange.body_complete else max(0, exchange.request.framing)
        datagram = Progress(session, exchange.received, total, int(start), int(epoch)).datagram()
        for listener in self._listeners:
            try:
                self._socket(socket.AF_INET6 if ":" in listener.host else socket.AF_INET).sendto(datagram, (listener.host, listener.port))
            except OSError as error:
                self._lost(listener, error)

    def _socket(self, family: int) -> socket.socket:
        found = self._sockets.get(family)
        if found is None:
            found = self._sockets[family] = socket.socket(family, socket.SOCK_DGRAM)
            found.setblocking(False)
        return found

    def _lost(self, listener: Endpoint, error: OSError) -> None:
        self._count_lost(error.strerror or str(error), str(listener))

    def _count_lost(self, reason: str, listener: str) -> None:
        world = self._service.world
        world.counters.counts["upload_reports_lost"] += 1
        world.log_limited(
            f"report {self._service.name}",
            "service %(service)s: the progress of an upload could not be sent to %(listener)s: %(reason)s",
            {"event": "report_lost", "service": self._service.name, "listener": listener, "reason": reason},
        )

    def close(self) -> None:
        """Give the sockets back."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()
        self._uploads.clear()
