"""python -m bench.park PORT NUMBER: park polls, say so, wait for the end."""

import signal
import socket
import sys


def main() -> None:
    port, number = int(sys.argv[1]), int(sys.argv[2])
    held = []
    for place in range(number):
        sock = socket.socket()
        sock.bind((f"127.0.0.{2 + place // 5000}", 0))
        sock.connect(("127.0.0.1", port))
        sock.sendall(
            f"GET /poll/user{place} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\nAccept: */*\r\nCookie: s={place}\r\n\r\n".encode()
        )
        held.append(sock)
    print("parked", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
