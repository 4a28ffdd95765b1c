"""Many readers in a process of their own: python -m bench.crowd KIND PORT NUMBER PATH, where KIND is poll, sse or websocket.

PATH may hold {}, the number of the reader. It says "waiting" when the response head of each reader is there (a poll has none: when
it is sent), and reads what comes. A line on standard input asks how many pieces have come so far: a piece is what one recv() gives,
which is one message where they come a second apart. It ends with standard input.
"""

import select
import socket
import sys

from bench.doings import connect

ASKS = {
    "poll": "",
    "sse": "Accept: text/event-stream\r\n",
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
}
A_SOURCE = 5000
"""Connections from one address."""


def gather(kind: str, port: int, number: int, path: str) -> list[socket.socket]:
    """The readers, all of them waiting."""
    held: list[socket.socket] = []
    for place in range(number):
        sock = connect(port, f"127.0.0.{2 + place // A_SOURCE}")
        target = path.replace("{}", str(place))
        common = f"Host: bench\r\nUser-Agent: bench/1\r\nCookie: s={place}\r\n"
        sock.sendall(f"GET {target} HTTP/1.1\r\n{common}{ASKS[kind]}\r\n".encode())
        if kind != "poll":
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(65536)
                if not piece:
                    raise RuntimeError(f"reader {place} was refused: {head!r:.200}")
                head += piece
        held.append(sock)
    return held


def read(held: list[socket.socket]) -> None:
    """Read what comes, until standard input ends."""
    poll = select.epoll()
    by_number = {sock.fileno(): sock for sock in held}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    asked = sys.stdin.fileno()
    room = bytearray(65536)
    pieces = 0
    while True:
        for number, _ in poll.poll():
            if number == asked:
                if not sys.stdin.readline():
                    return
                print(pieces, flush=True)
            elif by_number[number].recv_into(room):
                pieces += 1
            else:
                poll.unregister(number)


def main() -> None:
    held = gather(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    print("waiting", flush=True)
    read(held)


if __name__ == "__main__":
    main()
