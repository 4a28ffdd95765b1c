"""python -m bench.steady PORT RATE: requests at a steady rate, whatever the answers do. It prints the rate, median and p99 in seconds.

What is measured begins when a request was due, not when it was sent: a server that stops for a while does not hide it.
"""

import selectors
import socket
import sys
import time

SECONDS = 5.0
CONNECTIONS = 64
REQUEST = b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n"


def main() -> None:
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    selector = selectors.DefaultSelector()
    held: dict[int, socket.socket] = {}
    idle = []
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        held[sock.fileno()] = sock
        idle.append(sock)
    due_of: dict[int, float] = {}
    times: list[float] = []
    begin = time.perf_counter()
    number = 0
    while (now := time.perf_counter()) < begin + SECONDS:
        while idle and (due := begin + number / rate) <= now:
            sock = idle.pop()
            sock.send(REQUEST)
            due_of[sock.fileno()] = due
            number += 1
        for key, _ in selector.select(0):
            sock = held[key.fd]
            if not sock.recv(65536):
                raise SystemExit("the connection was closed")
            times.append(time.perf_counter() - due_of.pop(sock.fileno()))
            idle.append(sock)
    times.sort()
    print(len(times) / SECONDS, times[len(times) // 2], times[int(len(times) * 0.99)])


if __name__ == "__main__":
    main()
