"""What systemd is told (Type=notify): datagrams on a Unix socket, and nothing is waited for.

    READY=1       every service listens; after a reload, it is over
    RELOADING=1   the configuration is being read again
    STOPPING=1    the end has begun; it may take so long
    STATUS=...    a line for `systemctl status`
    WATCHDOG=1    the loop turns: sent by the tick, so that a pbal whose loop is stuck is started anew

Where no NOTIFY_SOCKET is set, nothing is sent. The variables are taken out of the environment: programs that plugins start are not the
service. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import MutableMapping

TICK = 1.0
"""Seconds between two beats of the tick."""

STATUS_SECONDS = 5.0
"""The least time between two lines of state."""


class Notifier:
    """The way to systemd, or to nobody."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = watchdog
        """Seconds of silence after which systemd ends pbal; 0: it does not watch."""
        self.error = ""
        """Why the last datagram could not be sent, until somebody reads it."""
        self._socket: socket.socket | None = None
        self._beaten = self._told_at = 0.0
        self._told = ""
        self._made_by = os.getpid()
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @property
    def heard(self) -> bool:
        """Whether there is somebody to tell."""
        return self._socket is not None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:
            self.error = error.strerror or str(error)

    def ready(self, status: str) -> None:
        """Every service listens."""
        self._told = status
        forked = self._made_by not in (1, os.getpid())  # process 1 stays, and its numbers mean nothing outside the container
        self._send("READY=1", f"STATUS={status}", *([f"MAINPID={os.getpid()}"] if forked else []))

    def reloading(self, now: float) -> None:
        """A reload begins; `ready` ends it. `now`: of the monotonic clock."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(now * 1_000_000)}", "STATUS=reading the configuration")

    def stopping(self, status: str, seconds: float | None) -> None:
        """The end begins, and takes `seconds` at most; None: nobody knows."""
        more = [] if seconds is None else [f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"]
        self._send("STOPPING=1", f"STATUS={status}", *more)

    def beat(self, now: float, status: str) -> None:
        """The tick, once a second: the watchdog, if the next tick would be too late for half its time; the state, where it changed."""
        lines = []
        if self.watchdog and now + TICK >= self._beaten + self.watchdog / 2:
            self._beaten = now
            lines.append("WATCHDOG=1")
        if status != self._told and now >= self._told_at + STATUS_SECONDS:
            self._told, self._told_at = status, now
            lines.append(f"STATUS={status}")
        if lines:
            self._send(*lines)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def notifier(environment: MutableMapping[str, str]) -> Notifier:
    """As the environment says it; call it before a fork: the watchdog is for the process that was started."""
    address = environment.pop("NOTIFY_SOCKET", "")
    microseconds = environment.pop("WATCHDOG_USEC", "")
    process = environment.pop("WATCHDOG_PID", "")
    watched = microseconds.isdecimal() and process in ("", str(os.getpid()))
    return Notifier(address if address[:1] in ("/", "@") else "", int(microseconds) / 1_000_000 if watched else 0.0)
