"""Collecting a whole request body for `proxy_read_request`.

The first `buffer_backend_connect` octets stay in memory; what comes after goes to a temporary file without a name, so
that an upload through a service with a poll plugin costs disk and not memory, and leaves nothing behind.
"""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from pbal.model.exchange import CollectedBody, Exchange, Sink
from pbal.model.hooks import Bound

PIECE = 65536


class SpooledBody(CollectedBody):
    """A body of known size. `read` gives it whole, `pieces` for relaying."""

    __slots__ = ("_file", "_limit", "_parts", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append octets. Raises: OSError when the disk is full."""
        self.size += len(data)
        if self._file is None and self.size > self._limit:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the exchange
            for part in self._parts:
                self._file.write(part)
            self._parts = []
        if self._file is None:
            self._parts.append(data)
        else:
            self._file.write(data)

    def read(self) -> bytes:
        """All of it."""
        if self._file is None:
            return b"".join(self._parts)
        self._file.seek(0)
        return self._file.read()

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces of at most PIECE octets or as it came."""
        if self._file is None:
            yield from self._parts
            return
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            yield piece

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()


class Collector(Sink):
    """The sink of an exchange whose body is being collected. Calls `done` once, with the exchange and the hooks that read."""

    __slots__ = ("_body", "_done", "_exchange", "_reading")

    def __init__(self, exchange: Exchange, reading: tuple[Bound, ...], done: Callable[[Exchange, tuple[Bound, ...]], None]) -> None:
        self._exchange = exchange
        self._reading = reading
        self._done = done
        self._body = SpooledBody(exchange.service.values["buffer_backend_connect"])
        exchange.sink = self
        exchange.stream.continue_body()

    def body_data(self, data: bytes) -> None:
        try:
            self._body.add(data)
        except OSError as error:
            self._exchange.service.world.log_limited(
                "spool",
                "cannot keep a request body on disk: %(reason)s",
                {"event": "spool_failed", "service": self._exchange.service.name, "reason": str(error)},
            )
            self._body.close()
            self._exchange.sink = None
            self._exchange.error(503, b"No room for the request body.\n", [(b"Retry-After", b"5")])

    def body_end(self) -> None:
        exchange = self._exchange
        exchange.sink = None
        exchange.collected(self._body)
        self._done(exchange, self._reading)

    def client_gone(self) -> None:
        self._body.close()

    def client_full(self) -> None:
        """Nothing is being sent to the client yet."""

    def client_drained(self) -> None:
        """Nothing is being sent to the client yet."""
