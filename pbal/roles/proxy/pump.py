"""A spooled body on its way to a node: a piece from the disk, as long as the node takes them.

What was just written is mostly in the system's memory still, and is read in passing. What is not is read off the loop, one piece at a time.
One attempt has one of these; with the attempt it is stopped, and what is read for it meanwhile is dropped.
"""

from collections.abc import Callable
from math import inf

from pbal.model.bodies import PIECE
from pbal.model.collected import CollectedBody
from pbal.net.backend import BackendConnection


class Pump:
    """See above. `sent` is called after each piece, with True after the last one; `failed` with what the disk said."""

    __slots__ = ("_backend", "_body", "_failed", "_place", "_reading", "_sent", "_stopped")

    def __init__(
        self, body: CollectedBody, backend: BackendConnection, sent: Callable[[bool], None], failed: Callable[[Exception], None]
    ) -> None:
        self._body = body
        self._backend = backend
        self._sent = sent
        self._failed = failed
        self._place = 0
        self._reading = self._stopped = False

    def stop(self) -> None:
        """Nothing more is sent, and nobody is told."""
        self._stopped = True

    def go_on(self) -> None:
        """Send as much as the node takes."""
        body, backend = self._body, self._backend
        limit = backend.owner.buffer_size()
        while not (self._stopped or self._reading or backend.closing) and backend.unsent <= limit:
            octets = min(PIECE, body.size - self._place)
            piece = body.read_now(self._place, octets)
            if piece is None:
                self._reading = True
                backend.deadline = inf  # the node waits for us
                body.read_soon(self._place, octets, self._came)
                return
            self._send(piece)

    def _came(self, piece: bytes | None, error: Exception | None) -> None:
        self._reading = False
        if self._stopped:
            return
        if piece is None:
            self._failed(error or OSError("nothing could be read"))
            return
        self._send(piece)
        self.go_on()

    def _send(self, piece: bytes) -> None:
        self._place += len(piece)
        ended = self._place == self._body.size
        self._stopped = ended
        self._backend.write(piece)
        self._sent(ended)
