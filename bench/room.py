"""One room with very many readers, and what a reader that stays costs: CPU a delivery, the stall of others, memory. Nchan beside it.

The readers are in a process of their own (bench/crowd.py), on the core that pbal does not have, and give way to the client whose
waits are measured. CPU is that of the whole server process, so the kernel's part of each send is in it, as is the loopback's.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.waits import CONTENT, longest

Row = tuple[str, float, str, str]
READERS = 10_000
MESSAGES = 8
"""One a second."""
MESSAGE = b"x" * 60
ROOM = "room"
CONF = """
LOAD poll
CREATE SERVICE chat
  SET role             = web_server
  SET listen           = 127.0.0.1:{chat}
  SET docroot          = {docroot}
  SET plugins          = poll
  SET poll_uri         = ^/poll/(?P<queue>[\\w.-]+)$
  SET poll_publish_uri = ^/publish/(?P<queue>[\\w.-]+)$
  SET poll_keep        = {keep}
  SET poll_timeout     = 600s
  SET poll_heartbeat   = 60s
ENABLE chat
"""
NCHAN = """
  server {{ listen 127.0.0.1:{chat};
    location ~ ^/poll/([\\w.-]+)$ {{ nchan_subscriber eventsource websocket longpoll; nchan_channel_id $1; }}
    location ~ ^/publish/([\\w.-]+)$ {{ nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 10; }}
    location /small.txt {{ return 200 "{content}"; }} }}
"""


class Crowd:
    """Readers in another process, all of them waiting."""

    def __init__(self, kind: str, port: int, number: int, path: str) -> None:
        command = ["taskset", "-c", str(peers.CORES[-1]), "nice", "-n", "10", sys.executable, "-m", "bench.crowd"]
        self.process = subprocess.Popen(
            [*command, kind, str(port), str(number), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._line() != "waiting":
            self.process.wait()
            raise RuntimeError(f"the {kind} readers were not all served")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def pieces(self) -> int:
        """Pieces that its readers have got."""
        assert self.process.stdin is not None
        self.process.stdin.write("how many\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> None:
        """They leave."""
        self.process.communicate()


def start_pbal(keep: str, docroot: str) -> peers.Program:
    """A pbal with a room."""
    port = peers.free_port()
    return peers.pbal(CONF.format(chat=port, keep=keep, docroot=docroot), port, peers.CORES[0])


def start_nchan() -> peers.Program | None:
    """Nchan with a room, where it is installed."""
    if not (peers.NCHAN.exists() and peers.have("nginx")):
        print("left out: nchan is not installed")
        return None
    port = peers.free_port()
    text = NCHAN.format(chat=port, content=CONTENT.decode())
    return peers.nginx("nchan_max_reserved_memory 512m;" + text, port, peers.CORES[0], peers.nchan_module())


def publish(port: int, message: bytes) -> None:
    """One message to the room."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        head = f"POST /publish/{ROOM} HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: {len(message)}\r\n\r\n"
        sock.sendall(head.encode() + message)
        while sock.recv(65536):
            pass


# -- one room -----------------------------------------------------------------------------------------------------------


def room() -> Iterator[Row]:
    """10,000 SSE readers of one room, a message a second."""
    os.sched_setaffinity(0, {peers.CORES[-1]})
    try:
        with tempfile.TemporaryDirectory(prefix="pbal-bench-") as docroot:
            os.chmod(docroot, 0o755)
            (Path(docroot) / "small.txt").write_bytes(CONTENT)
            yield from _room("pbal", start_pbal("ttl", docroot), "sse", ("12", "10"))
            yield from _room("pbal", start_pbal("ttl", docroot), "websocket", ("", ""))
        nchan = start_nchan()
        if nchan is not None:
            yield from _room("nchan", nchan, "sse", ("", ""))
    finally:
        os.sched_setaffinity(0, set(peers.CORES))


def _room(name: str, program: peers.Program, kind: str, targets: tuple[str, str]) -> Iterator[Row]:
    what = f"one room, {READERS} {kind} readers, {name}"
    try:
        publish(program.port, MESSAGE)
        crowd = Crowd(kind, program.port, READERS, f"/poll/{ROOM}")
        time.sleep(1)  # what the newcomers are told comes first
        try:
            before, pieces = program.cpu(), crowd.pieces()
            _say(program.port)
            used, got = program.cpu() - before, crowd.pieces() - pieces
            yield f"{what}: CPU a delivery", used / got * 1e6, "us CPU", targets[0]
            if got < READERS * MESSAGES:
                print(f"only {got} of {READERS * MESSAGES} deliveries came by themselves")
            yield f"{what}: longest wait of another", longest(program.port, lambda: _say(program.port)), "ms", targets[1]
        finally:
            crowd.end()
    finally:
        program.end()


def _say(port: int) -> None:
    for _ in range(MESSAGES):
        publish(port, MESSAGE)
        time.sleep(1)


# -- memory -------------------------------------------------------------------------------------------------------------


def streams() -> Iterator[Row]:
    """Memory of readers that stay, each on a queue of its own, and in one room."""
    with tempfile.TemporaryDirectory(prefix="pbal-bench-") as docroot:
        for kind, target in (("sse", "2.5"), ("websocket", "3.5")):
            name = "an SSE stream" if kind == "sse" else "a WebSocket"
            for keep, path, where in (("taken", "/poll/user{}", "a queue each"), ("ttl", f"/poll/{ROOM}", "one room, positions")):
                yield f"memory of {name}, pbal, {where}", _growth(start_pbal(keep, docroot), kind, path), "KB", target
            nchan = start_nchan()
            if nchan is not None:
                yield f"memory of {name}, nchan, a queue each", _growth(nchan, kind, "/poll/user{}"), "KB", ""


def _growth(program: peers.Program, kind: str, path: str) -> float:
    """KB a reader."""
    try:
        warm = Crowd(kind, program.port, 100, path)  # what the first of a kind imports is not theirs
        warm.end()
        before = program.resident()
        crowd = Crowd(kind, program.port, READERS, path)
        time.sleep(1)
        grown = program.resident() - before
        crowd.end()
        return grown / READERS / 1024
    finally:
        program.end()
