"""Handshakes of TLS, as a client. As a program: `python -m bench.handshakes PORT RATE SECONDS`."""

import contextlib
import socket
import ssl
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.peers import Program


def client_context() -> ssl.SSLContext:
    """A client's context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def shake(port: int, number: int, resumed: bool) -> None:
    """Make handshakes one after another, each on a connection of its own."""
    context = client_context()
    session = None
    for _ in range(number):
        with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(
            plain, server_hostname="bench.test", session=session if resumed else None
        ) as sock:  # fmt: skip
            if resumed and session is None:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")
                sock.recv(65536)
                session = sock.session
            with contextlib.suppress(OSError):  # either side may end first
                sock.unwrap()


def resident_growth(program: "Program", number: int) -> float:
    """Resident octets for each of so many polls that are parked over TLS, after as many were there before and left."""
    context = client_context()

    def park() -> list[ssl.SSLSocket]:
        held = []
        for place in range(number):
            sock = context.wrap_socket(socket.create_connection(("127.0.0.1", program.port)), server_hostname="bench.test")
            sock.sendall(b"GET /poll/q%d HTTP/1.1\r\nHost: bench.test\r\n\r\n" % place)
            held.append(sock)
        time.sleep(1)
        return held

    before = program.resident()
    held = park()
    growth = (program.resident() - before) / number
    for sock in held:
        sock.close()
    return growth


def main() -> None:
    port, rate, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    began = time.perf_counter()
    made = 0
    while (passed := time.perf_counter() - began) < seconds:
        due = int(passed * rate) - made
        if due > 0:
            shake(port, due, False)
            made += due
        else:
            time.sleep(0.001)


if __name__ == "__main__":
    main()
