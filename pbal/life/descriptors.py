"""How many files the process may have open, and what is done when they run short.

Connections, spooled bodies and cached files share the limit with memcached, consoles, and what plugins open. Some are kept back for
those. When no more than these are left, listeners stop accepting, consoles aside; half of what is kept back has to be free again before
they go on, so that it is not on and off. Both are logged, and pauses are counted.
"""

import logging
import os
import resource
from collections.abc import Mapping

from pbal.model.errors import ConfigError
from pbal.model.openfiles import MOST_OPEN
from pbal.model.world import World
from pbal.net.datagrams import AnyListener

log = logging.getLogger("pbal")

KEPT = 64
"""Descriptors kept free for backends, memcached, files and the console when accepting stops."""


def raise_limit(wanted: int | None = None) -> int:
    """Set the soft limit of open files to `wanted`, or raise it to the hard one; the limit now in force.

    Raises: ConfigError if the system refuses what is wanted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted is not None:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard if hard == resource.RLIM_INFINITY else max(hard, wanted)))
        except (OSError, ValueError):
            raise ConfigError(
                f"max_connections: the system allows {hard} open files at most, found '{wanted}'", about=str(wanted)
            ) from None
        return wanted
    goal = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if goal != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        except (OSError, ValueError) as error:
            log.warning(
                "cannot raise the limit of open files from %(now)d to %(wanted)d: %(reason)s",
                {"event": "descriptors_refused", "now": soft, "wanted": goal, "reason": str(error)},
            )
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _open() -> int:
    """Descriptors of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


class Descriptors:
    """Those of one server, whose `listeners` stop and start."""

    def __init__(self, world: World, listeners: Mapping[str, AnyListener]) -> None:
        self._world = world
        self._listeners = listeners
        self._kept = KEPT
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.paused = False
        """Whether nothing is accepted for want of them."""

    def set_limit(self, wanted: int | None) -> None:
        """Raises: ConfigError if the system refuses `wanted`."""
        world = self._world
        self.limit = raise_limit(wanted)
        self._kept = min(KEPT, self.limit // 2)
        world.room = self.limit - self._kept
        world.files.most_open = min(MOST_OPEN, self.limit // 8)

    def _used(self) -> int:
        """Those of connections and files."""
        world = self._world
        return len(world.clients) + len(world.backends) + len(world.bodies.spools) + len(world.files.open)

    def pause(self) -> None:
        """Stop accepting unless files that are only kept can make room, and say so once."""
        world = self._world
        if self.paused or (world.files.shed() and self._used() <= world.room):
            return
        self.paused = True
        world.counters.counts["accept_pauses"] += 1
        log.warning(
            "%(connections)d connections, %(descriptors)d descriptors at most: accepting no more connections",
            {"event": "accept_paused", "connections": len(world.clients), "descriptors": self.limit},
        )
        for listener in self._listeners.values():
            if listener.service.role != "management":
                listener.pause()

    def watch(self, open_to_all: bool) -> None:
        """The tick: stop accepting when they run short; go on when there is room again, unless pbal is ending."""
        world = self._world
        used = self._used()
        if not self.paused and used > world.room - 4 * self._kept and _open() > world.room + self._kept // 2:
            self.pause()  # something else holds many: a plugin's sockets
        elif self.paused and used < world.room - self._kept // 2 and open_to_all:
            self.paused = False
            log.warning("%(connections)d connections: accepting again", {"event": "accept_resumed", "connections": used})
            for listener in self._listeners.values():
                listener.start()
