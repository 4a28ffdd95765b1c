"""Who may use a console: what model/gate.py says of passwords, and a bound on those who have said none.

strangers  connections on which no right password was said yet. They are bounded, so that they take no descriptors from those whom pbal
           serves: the oldest one goes.
"""

import asyncio
from typing import Final

from pbal.model.gate import Denied, Passwords, address_of, credentials
from pbal.model.service import Service

MOST_STRANGERS: Final = 256


class Gate(Passwords):
    """That of one management service."""

    what = "console"
    busy = "console_logins_busy"
    failures = "console_login_failures"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._strangers: dict[asyncio.Transport, None] = {}
        """The oldest first."""

    @property
    def closed(self) -> bool:
        """Whether a password is asked for."""
        return self._service["password_file"] is not None

    def came(self, transport: asyncio.Transport) -> None:
        """A connection was made; nobody knows yet whose. `settled` is to follow."""
        self._strangers[transport] = None
        if len(self._strangers) > MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            self.settled(oldest)
            oldest.abort()
            world = self._service.world
            world.counters.counts["console_strangers_closed"] += 1
            world.log_limited(
                f"strangers {self._service.name}",
                "console %(service)s: more than %(most)d connections without a password: the oldest is closed",
                {"event": "console_crowded", "service": self._service.name, "most": MOST_STRANGERS},
            )

    def settled(self, transport: asyncio.Transport) -> None:
        """The right password was said on it, or it has ended."""
        self._strangers.pop(transport, None)


__all__ = ["Denied", "Gate", "address_of", "credentials"]
