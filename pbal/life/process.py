"""What a server in a process of its own has around it, and when each of it is told what.

    claim      before anything is bound: the pidfile is ours, the account exists
    bound      every address is bound, nothing is open yet: root becomes the user
    listening  every service accepts connections: the pidfile is written, the terminal let go, systemd and the waiting parent are told
    beat       once a second
    stopping   the end has begun
    close      the end: the pidfile goes

A server in a test has one in which all of these do nothing.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from pbal.life.daemon import Daemon
from pbal.life.handed import Handed
from pbal.life.notify import Notifier
from pbal.life.pidfile import Pidfile
from pbal.life.privileges import Account, account, become, warnings
from pbal.model.errors import ConfigError
from pbal.model.world import World

log = logging.getLogger("pbal")


class Process:
    """The surroundings of one server."""

    def __init__(
        self,
        handed: Handed | None = None,
        notifier: Notifier | None = None,
        daemon: Daemon | None = None,
        pidfile: Path | None = None,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        """`pidfile`: of the command line, which counts for more than that of SERVER. `flush`: writes the log out, for a bounded time."""
        self.handed = handed or Handed()
        self.notifier = notifier or Notifier()
        self.flush = flush
        self.silent = False
        """Standard error was let go."""
        self.files: tuple[Path, ...] = ()
        """What the configuration was read from."""
        self._daemon = daemon
        self._path = pidfile
        self._pidfile: Pidfile | None = None
        self._account: Account | None = None
        self._listening = False

    @property
    def in_background(self) -> bool:
        """Whether it leaves the terminal when everything listens, and has not yet."""
        return self._daemon is not None

    def claim(self, world: World) -> None:
        """Raises: ConfigError if the pidfile is another pbal's, or the account does not exist."""
        self._account = account(world)
        path = self._path or world.server["pidfile"]
        if path is not None:
            self._pidfile = Pidfile(path)

    def bound(self, world: World) -> None:
        """Stop being root. Raises: ConfigError if the system refuses."""
        for odd in self.handed.odd:
            log.warning("handed over and not used: %(what)s", {"event": "handed_over_odd", "what": odd})
        for left in self.handed.unused():
            log.warning(
                "no service listens on %(address)s, which was handed over as %(name)s: closed",
                {"event": "handed_over_unused", "address": str(left.address), "name": left.name},
            )
        wanted = self._account
        if wanted is None or (os.geteuid(), os.getegid()) == (wanted.uid, wanted.gid):
            return
        for warning in warnings(world, self.files):
            log.warning("%(text)s", {"event": "user_cannot_open", "about": warning.about, "text": warning.text})
        world.access.give(wanted.uid, wanted.gid)
        lost = become(wanted)
        log.info("runs as %(user)s", {"event": "user_changed", "user": wanted.user, "uid": wanted.uid, "gid": wanted.gid})
        if lost:
            log.warning("as %(user)s, %(lost)s", {"event": "right_lost", "user": wanted.user, "lost": lost})

    def listening(self, world: World, status: str) -> bool:
        """Whether standard error may be another file now. Raises: ConfigError if the pidfile cannot be written."""
        if self._pidfile is not None:
            try:
                self._pidfile.write()
            except OSError as error:
                raise ConfigError(f"pidfile: cannot write {self._pidfile.path}: {error.strerror}") from None
        self._listening = True
        self.notifier.ready(status)
        if self._daemon is None:
            return False
        kept = {2} if world.server["log_to"] == "stderr" else set()
        if any(service.access is not None and service["access_log"] == "stdout" for service in world.services.values()):
            kept.add(1)
        self.flush()
        self._daemon.detach(kept)
        self.silent = 2 not in kept
        self._daemon = None
        return True

    def beat(self, world: World, status: str) -> None:
        """The tick."""
        notifier = self.notifier
        if not notifier.heard or not self._listening:
            return
        notifier.beat(world.clock.now(), status)
        if notifier.error:
            world.log_limited("notify", "systemd could not be told: %(reason)s", {"event": "notify_failed", "reason": notifier.error})
            notifier.error = ""

    def close(self) -> None:
        """The end."""
        self.handed.close()
        self.notifier.close()
        if self._pidfile is not None:
            path, why = self._pidfile.path, self._pidfile.remove()
            if why:
                log.warning("%(file)s was emptied and not removed: %(reason)s", {"event": "pidfile_left", "file": str(path), "reason": why})
            self._pidfile = None
