"""echoservice: a service of the role echo sends back every line that it is sent. It shows how a plugin brings a role.

    LOAD echoservice
    CREATE SERVICE parrot
      SET role       = echo
      SET listen     = 127.0.0.1:7007
      SET echo_delay = 1
    ENABLE parrot

A line ends with LF or CRLF, and comes back with CRLF, after echo_delay. Whoever sends a line of more than 64 KB is cut off. Who hears and
says nothing for idle_timeout is, too: let that be longer than echo_delay.
The role is there from LOAD on, and the plugin is in no chain of plugins. UNLOAD is refused while a service has the role.

Source: Perlbal's EchoService. differs: an empty line comes back, too; what is to come back after a delay does so after the client has ended
its side; echo_delay may be a fraction of a second.
"""

import asyncio
from typing import Any, Final

from pbal.api import DURATION, Conversation, Counter, OwnRole, Plugin, Role, Tunable

LONGEST: Final = 1 << 16
"""Octets of a line."""
MOST: Final = 1 << 20
"""Octets that may wait for their time on one connection."""


class Echo(Conversation):
    """One client. What was sent at once waits in a timer, for echo_delay."""

    def __init__(self, service: Any, wire: Any) -> None:
        super().__init__(service, wire)
        self._begun = b""
        self._timers: dict[asyncio.TimerHandle, int] = {}
        self._waiting = 0
        self._over = False

    def received(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        said = b"".join(line.removesuffix(b"\r") + b"\r\n" for line in lines)
        self._waiting += len(said)
        if len(self._begun) > LONGEST or self._waiting > MOST:
            self.service.world.counters.counts["echo_too_much"] += 1
            self.service.world.log_limited(
                f"echo {self.service.name}", "service %(service)s: %(client)s sent too much at once, and was cut off",
                {"event": "echo_too_much", "service": self.service.name, "client": self.wire.peer_name},
            )  # fmt: skip
            self.wire.close()
        elif said:
            delay = self.service["echo_delay"]
            if not delay and not self._timers:
                self._say(said)
            else:
                made: list[asyncio.TimerHandle] = []
                timer = asyncio.get_running_loop().call_later(delay, self._due, made, said)
                made.append(timer)
                self._timers[timer] = len(said)

    def _due(self, made: list[asyncio.TimerHandle], said: bytes) -> None:
        del self._timers[made[0]]
        self._say(said)

    def _say(self, said: bytes) -> None:
        self._waiting -= len(said)
        self.wire.write(said)
        if self._over and not self._timers:
            self.wire.close()

    def ended(self) -> None:
        self._over = True
        if not self._timers:
            self.wire.close()

    def gone(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


class EchoService(Plugin):
    """Only its role."""

    roles = frozenset({"echo"})
    conversations = (OwnRole(Role("echo", "EchoClient", http=False, needs=("listen",)), Echo),)
    counters = (Counter("echo_too_much", "Clients of echo services that sent more at once than may wait, and were cut off."),)
    tunables = (
        Tunable(
            "echo_delay",
            DURATION,
            default="0",
            roles=frozenset({"echo"}),
            unit="seconds",
            maximum="1h",
            summary="How long a line waits before it is sent back.",
            source="differs: it may be a fraction",
        ),
    )
