"""What one peer does while another waits: python -m bench.doings DOING PORT [NUMBER].

origin    listen on PORT; answer GET with one-octet chunks, read the body of anything else
upload    send a body in one-octet chunks, read the answer
fetch     ask for an answer in one-octet chunks and read it
park      park NUMBER polls on one queue, say so, and leave with all of them at once when standard input ends
publish   send that queue one message
"""

import socket
import sys
import threading

ON_THE_WIRE = 8_000_000
CHUNKS = b"1\r\nx\r\n" * (ON_THE_WIRE // 6) + b"0\r\n\r\n"
QUEUE = "crowd"
IP_BIND_ADDRESS_NO_PORT = 24
"""Linux's number; the socket module has no name for it before Python 3.12."""


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address; one address has not ports enough for a crowd."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)  # else the kernel searches for a port, longer with each, and all wait
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", port))
    return sock


def read_until(sock: socket.socket, end: bytes) -> None:
    """Read until what came ends with `end`, or nothing comes."""
    tail = b""
    while not tail.endswith(end) and (piece := sock.recv(1_000_000)):
        tail = (tail + piece)[-len(end) :]


def serve(sock: socket.socket) -> None:
    """Answer what comes on one connection."""
    head = b""
    while b"\r\n\r\n" not in head and (piece := sock.recv(65536)):
        head += piece
    if head.startswith(b"GET"):
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS)
    elif head:
        if not head.endswith(b"\r\n0\r\n\r\n"):
            read_until(sock, b"\r\n0\r\n\r\n")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    sock.close()


def origin(port: int) -> None:
    """A thread a connection."""
    listening = socket.create_server(("127.0.0.1", port))
    while True:
        sock, _ = listening.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def upload(port: int) -> None:
    """One request whose body is all chunks."""
    sock = connect(port)
    sock.sendall(b"POST /upload HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS)
    read_until(sock, b"\r\n\r\n")


def fetch(port: int) -> None:
    """One answer that is all chunks."""
    sock = connect(port)
    sock.sendall(b"GET /chunks HTTP/1.1\r\nHost: b\r\n\r\n")
    read_until(sock, b"\r\n0\r\n\r\n")


def park(port: int, number: int) -> None:
    """Polls of one queue, which leave together."""
    held = [connect(port, f"127.0.0.{2 + place // 5000}") for place in range(number)]
    for sock in held:
        sock.sendall(f"GET /poll/{QUEUE} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
    print("parked", flush=True)
    sys.stdin.read()


def publish(port: int) -> None:
    """One message."""
    sock = connect(port)
    sock.sendall(f"POST /publish/{QUEUE} HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nm".encode())
    sock.recv(65536)


def main() -> None:
    doing, port = sys.argv[1], int(sys.argv[2])
    if doing == "park":
        park(port, int(sys.argv[3]))
    else:
        {"origin": origin, "upload": upload, "fetch": fetch, "publish": publish}[doing](port)


if __name__ == "__main__":
    main()
