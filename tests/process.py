"""A pbal in a process of its own: for what only a process shows, signals, start-up, its log."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import DEADLINE

ROOT = Path(__file__).parent.parent


def conf(tmp_path: Path, port: int, more: str = "") -> Path:
    """The file of a chat on a port, with more statements after it."""
    path = tmp_path / "test.conf"
    path.write_text(f"""
LOAD poll
CREATE SERVICE chat
  SET role             = web_server
  SET listen           = 127.0.0.1:{port}
  SET plugins          = poll
  SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
  SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
ENABLE chat
{more}
""")
    return path


def plugin(tmp_path: Path, port: int, hook: str) -> Path:
    """The file of a service whose plugin `own` runs the lines of `hook` for each request, and answers 200."""
    body = "\n".join(f"        {line}" for line in hook.splitlines())
    (tmp_path / "own.py").write_text(f'''"""A plugin."""

import re
import time

from pbal.api import Exchange, Plugin, Verdict, hook


class Own(Plugin):
    @hook.start_http_request
    def answer(self, exchange: Exchange) -> Verdict:
        target = exchange.request.target
{body}
        exchange.respond(200, (), b"done")
        return Verdict.TAKEN
''')
    path = tmp_path / "test.conf"
    path.write_text(f"""
SERVER plugin_path = {tmp_path}
LOAD own
CREATE SERVICE site
  SET role    = web_server
  SET listen  = 127.0.0.1:{port}
  SET plugins = own
ENABLE site
""")
    return path


class Running:
    """A pbal of its own process. Its log goes to a file, or to the descriptor `log`. `under`: a program that starts it."""

    def __init__(
        self, path: Path, port: int, log: int | None = None, under: Sequence[str] = (), environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # for as long as this lives
        to = self._log.fileno() if log is None else log
        command = [*under, sys.executable, "-m", "pbal", "-c", str(path)]
        variables = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=to, stdout=to, env=variables, pass_fds=pass_fds)
        self.port = port
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError(f"did not start: {self.log()}")

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._log.close()

    def log(self) -> str:
        """What it logged so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def says(self, text: str) -> None:
        """Wait until it has logged that."""
        end = time.monotonic() + DEADLINE
        while text not in self.log():
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def send(self, target: str = "/") -> socket.socket:
        """A GET whose answer is not awaited."""
        sock = self.connect()
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: c\r\n\r\n".encode())
        return sock

    def park(self, queue: str) -> socket.socket:
        """A parked poll."""
        sock = self.send(f"/poll/{queue}")
        other = self.connect()
        for number in range(2):  # two answers after the poll was sent: it has been read
            other.sendall(f"GET /{number} HTTP/1.1\r\nHost: c\r\n\r\n".encode())
            assert b"404" in other.recv(4096)
        other.close()
        return sock

    def send_signal(self, number: int) -> None:
        """Signal it."""
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Wait for its end; exit status and what it logged."""
        self.process.wait(timeout=DEADLINE)
        return self.process.returncode, self.log()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it and wait for its end; exit status and what it logged."""
        self.send_signal(number)
        return self.ended()
