"""A cable between clients and a server: it can be cut and mended, and may hold back what it does not like, as a proxy would."""

import asyncio
from collections.abc import Callable

from lab import Lab, transport_of

PIECE = 65536


class Cable:
    """Relays connections to a port. Cut, it ends them all and takes no more."""

    def __init__(self, port: int, dislikes: Callable[[bytes], bool]) -> None:
        self.port = 0
        self.refused = 0
        """Connections that were ended because of the head of a request."""
        self._to = port
        self._dislikes = dislikes
        self._whole = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def to(cls, lab: Lab, port: int, dislikes: Callable[[bytes], bool] = lambda head: False) -> "Cable":
        """A cable to a local port. A connection with a request that it dislikes is ended."""
        cable = cls(port, dislikes)
        server = await asyncio.start_server(cable._take, "127.0.0.1", 0)
        lab.keep(server)
        cable.port = server.sockets[0].getsockname()[1]
        return cable

    def cut(self) -> None:
        """End what there is, and whatever comes until it is mended."""
        self._whole = False
        for writer in list(self._writers):
            transport_of(writer).abort()

    def mend(self) -> None:
        """Take connections again."""
        self._whole = True

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            transport_of(writer).abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            transport_of(writer).abort()
            return
        self._writers |= {writer, back}
        for source, sink, requests in ((reader, back, True), (there, writer, False)):
            task = asyncio.ensure_future(self._relay(source, sink, writer, requests))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter, requests: bool) -> None:
        try:
            while data := await source.read(PIECE):
                if requests and self._dislikes(data):
                    self.refused += 1
                    transport_of(client).abort()
                    break
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            transport_of(client).abort()
        sink.close()
        self._writers.discard(sink)
