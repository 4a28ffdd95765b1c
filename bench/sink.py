"""python -m bench.sink PORT: an origin that reads each request to its end, whatever its body, and then answers 200."""

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"0\r\n\r\n"


class Sink(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.head = b""
        self.left = 0
        """Octets of the body that are still to come; -1: it is chunked."""
        self.last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.left:
            head, empty, data = (self.head + data).partition(b"\r\n\r\n")
            self.head = b"" if empty else head
            if not empty:
                return
            lower = head.lower()
            length = lower.partition(b"content-length: ")[2].partition(b"\r")[0]
            self.left = -1 if b"transfer-encoding" in lower else int(length or b"0")
        if self.left < 0:
            self.last = (self.last + data)[-len(END) :]
            if self.last != END:
                return
            self.left, self.last = 0, b""
        else:
            self.left -= len(data)
        if self.left <= 0:
            self.left = 0
            self.transport.write(ANSWER)


async def main() -> None:
    """Serve until somebody ends it."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
