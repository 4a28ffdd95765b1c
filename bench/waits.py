"""The longest wait of a client while another peer does something large.

The client asks for a small file of a web_server, again and again: what it waits for is pbal's turn, not a backend. The figure is
the longest of its waits. The row in which nobody else does anything is what the machine itself makes of it.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bench import peers

Row = tuple[str, float, str, str]
CROWD = 10_000
AFTERWARDS = 0.5
"""Seconds of watching after a doing has ended: what it leaves behind is part of it."""
CONF = """
LOAD poll
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE plain
  SET role   = reverse_proxy
  SET listen = 127.0.0.1:{plain}
  SET pool   = app
ENABLE plain
CREATE SERVICE chat
  SET role             = reverse_proxy
  SET listen           = 127.0.0.1:{chat}
  SET pool             = app
  SET plugins          = poll
  SET poll_uri         = ^/poll/(?P<queue>[\\w.-]+)$
  SET poll_publish_uri = ^/publish/(?P<queue>[\\w.-]+)$
  SET poll_duplicate   = all
  SET poll_timeout     = 600s
ENABLE chat
CREATE SERVICE files
  SET role    = web_server
  SET listen  = 127.0.0.1:{files}
  SET docroot = {docroot}
ENABLE files
CREATE SERVICE console
  SET role   = management
  SET listen = 127.0.0.1:{console}
ENABLE console
"""
CONTENT = b"x" * 100
SMALL = b"GET /small.txt HTTP/1.1\r\nHost: b\r\n\r\n"


class Doings:
    """A pbal, and other processes that keep it busy. They give way to the client whose waits are measured: nice 10."""

    def __init__(self, docroot: str) -> None:
        self.ports = {name: peers.free_port() for name in ("plain", "chat", "files", "console", "origin")}
        (Path(docroot) / "small.txt").write_bytes(CONTENT)
        self.origin = self.start("origin", self.ports["origin"])
        self.pbal = peers.pbal(CONF.format(docroot=docroot, **self.ports), self.ports["files"], peers.CORES[0])
        self.crowd: subprocess.Popen[str] | None = None

    def start(self, doing: str, *arguments: int) -> subprocess.Popen[str]:
        """A process of bench.doings, on the core that pbal does not have."""
        command = ["taskset", "-c", str(peers.CORES[-1]), "nice", "-n", "10", sys.executable, "-m", "bench.doings", doing]
        return subprocess.Popen([*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def nothing(self) -> None:
        """Two seconds of it."""
        time.sleep(2)

    def upload(self) -> None:
        """A body in one-octet chunks."""
        self._all_of("upload", "plain")

    def fetch(self) -> None:
        """An answer in one-octet chunks."""
        self._all_of("fetch", "plain")

    def park(self) -> None:
        """A crowd parks on one queue."""
        self.crowd = self.start("park", self.ports["chat"], CROWD)
        assert self.crowd.stdout is not None
        self.crowd.stdout.readline()
        self._wait_parked(CROWD)

    def publish(self) -> None:
        """One message to the whole crowd."""
        self._all_of("publish", "chat")
        self._wait_parked(0)

    def leave(self) -> None:
        """The crowd goes, socket by socket: the kernel ends a killed process in one go, and holds the watcher up itself."""
        assert self.crowd is not None
        self.crowd.communicate()
        self._wait_parked(0)

    def _all_of(self, doing: str, service: str) -> None:
        process = self.start(doing, self.ports[service])
        process.communicate()
        if process.returncode:
            raise RuntimeError(f"{doing} failed")

    def _wait_parked(self, number: int) -> None:
        for _ in range(600):
            with socket.create_connection(("127.0.0.1", self.ports["console"])) as sock:
                sock.sendall(b"show counters like poll_parked\nquit\n")
                answer = b""
                while piece := sock.recv(4096):
                    answer += piece
            if f"poll_parked {number}\r\n".encode() in answer:
                return
            time.sleep(0.05)
        raise RuntimeError(f"there were never {number} polls parked")

    def end(self) -> None:
        """End all of them."""
        self.pbal.end()
        for process in (self.origin, self.crowd):
            if process is not None:
                process.kill()
                process.communicate()


def waits() -> Iterator[Row]:
    """Longest wait of another client during any single peer's doing."""
    os.sched_setaffinity(0, {peers.CORES[-1]})
    try:
        with tempfile.TemporaryDirectory(prefix="pbal-bench-") as docroot:
            os.chmod(docroot, 0o755)
            doings = Doings(docroot)
            try:
                yield from _rows(doings)
            finally:
                doings.end()
    finally:
        os.sched_setaffinity(0, set(peers.CORES))


def _rows(doings: Doings) -> Iterator[Row]:
    size = "8 MB in one-octet chunks"
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("nothing is done", doings.nothing),
        (f"a peer uploads {size}", doings.upload),
        (f"a backend answers {size}", doings.fetch),
        (f"{CROWD} polls park on one queue", doings.park),
        ("they get one publish", doings.publish),
    )
    for what, doing in steps:
        yield f"longest wait while {what}", longest(doings.ports["files"], doing), "ms", "20"
    doings.leave()
    doings.park()
    yield f"longest wait while {CROWD} polls leave together", longest(doings.ports["files"], doings.leave), "ms", "20"


def longest(port: int, doing: Callable[[], None]) -> float:
    """The longest of a client's waits, in milliseconds, from the begin of a doing until a while after its end."""
    longest = 0.0
    with socket.create_connection(("127.0.0.1", port)) as sock, ThreadPoolExecutor(1) as thread:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        under_way: Future[None] = thread.submit(doing)
        until = float("inf")
        while (started := time.perf_counter()) < until:
            sock.sendall(SMALL)
            _read_small(sock)
            longest = max(longest, time.perf_counter() - started)
            if under_way.done() and until == float("inf"):
                until = time.perf_counter() + AFTERWARDS
        under_way.result()
    return longest * 1000


def _read_small(sock: socket.socket) -> None:
    answer = b""
    while not answer.endswith(CONTENT):
        piece = sock.recv(65536)
        if not piece:
            raise RuntimeError("the client was not served")
        answer += piece
