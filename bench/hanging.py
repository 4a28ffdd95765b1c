"""A node that hangs in a pool of three, at a steady 2,000 requests a second: how many requests wait for it.

The node takes connections and reads what is sent, and says nothing, as a process does that is stuck. It counts: whatever it gets waits. A
request is due by the clock and not when another was answered, so those who wait slow nobody down. response_timeout is short, so that
the node is ejected within the run; what it gets after the moment at which pbal says so is counted by itself. Where idle nodes are
preferred, it gets one request at a time, and may fail too seldom to be ejected within the run: then none counts there.

    python -m bench.hanging PORT     the load; it prints how many requests it sent
"""

import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from math import inf

from bench import peers

Row = tuple[str, float, str, str]
RATE = 2000
SECONDS = 10.0
SILENT = 2
"""Seconds of response_timeout."""
ASKED = 0.2
"""Seconds between two questions whether the node is ejected."""
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
CONF = """
CREATE POOL app
  SET balance_method = {method}
  POOL app ADD 127.0.0.1:{one}
  POOL app ADD 127.0.0.1:{silent}
  POOL app ADD 127.0.0.1:{two}
CREATE SERVICE front
  SET role             = reverse_proxy
  SET listen           = 127.0.0.1:{port}
  SET pool             = app
  SET response_timeout = {seconds}s
ENABLE front
CREATE SERVICE console
  SET role   = management
  SET listen = 127.0.0.1:{console}
ENABLE console
"""


def hanging() -> Iterator[Row]:
    """The share of requests that wait, for each method of balancing."""
    if not peers.have("nginx"):
        print("left out: a node that hangs needs nginx (the others)")
        return
    ports = [peers.free_port(), peers.free_port()]
    text = "".join(f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{"x" * 100}"; }} }}\n' for port in ports)
    others = peers.nginx(text, ports[0], peers.CORES[-1])
    try:
        for method in ("random", "round_robin", "least_connections", "p2c"):
            yield from _hanging(method, ports)
    finally:
        others.end()


def _hanging(method: str, ports: list[int]) -> Iterator[Row]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(4096)
        silent.setblocking(False)
        port = peers.free_port()
        console = peers.free_port()
        conf = CONF.format(
            method=method, one=ports[0], two=ports[1], silent=silent.getsockname()[1], port=port, seconds=SILENT, console=console
        )
        program = peers.pbal(conf, port, peers.CORES[0])
        try:
            command = ["taskset", "-c", str(peers.CORES[-1]), sys.executable, "-m", "bench.hanging", str(port)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
                with socket.create_connection(("127.0.0.1", console)) as asking:
                    times, ejected = _got(silent, load, asking)
                said, _ = load.communicate()
        finally:
            program.end()
    requests = int(said)
    later = len([at for at in times if at > ejected])
    yield f"a node of three hangs, {method}: requests", requests / SECONDS, "a second", str(RATE)
    yield f"a node of three hangs, {method}: requests that wait for it", 100 * len(times) / requests, "%", "0.5"
    yield f"a node of three hangs, {method}: that wait once it is ejected", later, "requests", "0"


def _got(silent: socket.socket, load: subprocess.Popen[str], asking: socket.socket) -> tuple[list[float], float]:
    """The moments at which a node gets requests that it never answers, until the load has ended; and by which it is ejected, or inf."""
    times: list[float] = []
    ejected = inf
    asked_at = time.perf_counter()
    selector = selectors.DefaultSelector()
    selector.register(silent, selectors.EVENT_READ)
    while load.poll() is None:
        for key, _ in selector.select(ASKED / 2):
            if key.fileobj is silent:
                taken, _ = silent.accept()
                selector.register(taken, selectors.EVENT_READ, taken)
                continue
            try:
                data = key.data.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                selector.unregister(key.data)
                key.data.close()
            times += [time.perf_counter()] * data.count(b"\r\n\r\n")
        if ejected == inf and time.perf_counter() > asked_at + ASKED:
            if _is_ejected(asking):
                ejected = time.perf_counter()
            asked_at = time.perf_counter()
    return times, ejected


def _is_ejected(asking: socket.socket) -> bool:
    """Whether pbal says that a node is."""
    asking.sendall(b"show health\r\n")
    said = b""
    while not said.endswith(b"\n.\r\n") and not said.endswith(b"\n.\n"):
        said += asking.recv(65536)
    return b"ejected for" in said


def main() -> None:
    """The load."""
    port = int(sys.argv[1])
    selector = selectors.DefaultSelector()
    idle: list[socket.socket] = []
    number = 0
    begin = time.perf_counter()
    while (now := time.perf_counter()) < begin + SECONDS:
        while begin + number / RATE <= now:
            sock = idle.pop() if idle else _connected(selector, port)
            sock.send(REQUEST)
            number += 1
        for key, _ in selector.select(0.0002):
            if key.data.recv(65536):
                idle.append(key.data)
            else:
                selector.unregister(key.data)
    print(number)


def _connected(selector: selectors.BaseSelector, port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(sock, selectors.EVENT_READ, sock)
    return sock


if __name__ == "__main__":
    main()
