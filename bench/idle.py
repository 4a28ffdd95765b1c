"""python -m bench.idle PORT NUMBER: make connections, have a request answered on each, keep them, say so, wait for the end."""

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
        fields = f"User-Agent: Mozilla/5.0 (bench {place})\r\nAccept: */*\r\nCookie: session={place:032x}\r\nX-Number: {place}\r\n"
        sock.sendall(f"GET /small HTTP/1.1\r\nHost: bench\r\n{fields}\r\n".encode())
        held.append(sock)
        if place % 50 == 49:
            for each in held[-50:]:
                each.recv(65536)
    print("idle", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
