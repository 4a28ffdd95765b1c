"""How a server ends, in phases:

    serving      no end is in sight
    leaving      first signal or SHUTDOWN GRACEFUL: everything is served as before, for drain_delay, but /readyz fails, so that a
                 balancer in front sends its requests elsewhere (world.ending)
    draining     listeners closed, parked polls answered empty, idle connections closed, requests in flight may finish within
                 graceful_timeout (world.draining)
    ended        nothing left, the time is over, or a second signal; who waits for `ended` closes everything

Then plugins have a moment to store what clients did not acknowledge.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from math import inf

from pbal.life.process import Process
from pbal.model.faults import CAUGHT, report
from pbal.model.plugin import Plugin
from pbal.model.world import World
from pbal.net.datagrams import AnyListener
from pbal.net.tasks import NotInTime, spawn, within

log = logging.getLogger("pbal")

GIVE_BACK_SECONDS = 2.0
"""How long plugins may store what clients did not acknowledge, when the process ends."""


LOOK_SECONDS = 0.02
"""Between two looks at who is left."""


class Phase(Enum):
    """Where in its life a server is."""

    SERVING = "serving"
    LEAVING = "leaving"
    DRAINING = "draining"
    ENDED = "ended"


class Ending:
    """That of one server. `status` says what whoever started the process is told; tasks belong to `owner`, who cancels them."""

    def __init__(
        self, world: World, process: Process, listeners: Mapping[str, AnyListener], status: Callable[[], str], owner: object
    ) -> None:
        self._world = world
        self._process = process
        self._listeners = listeners
        self._status = status
        self._owner = owner
        self.phase = Phase.SERVING
        self.ended = asyncio.Event()
        self._serves_until = self._until = inf
        """When listeners close, and when all of it is over (clock times)."""
        self._sooner = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether an end, graceful or not, has begun."""
        return self.phase is not Phase.SERVING

    @property
    def accepts(self) -> bool:
        """Whether new connections are still welcome."""
        return self.phase in (Phase.SERVING, Phase.LEAVING)

    def begin(self, seconds: float | None) -> None:
        """Gracefully, within `seconds` of all that there is; None: as drain_delay and graceful_timeout say.

        An end that has begun can only come sooner.
        """
        now = self._world.clock.now()
        if self.begun:
            if seconds and now + seconds < self._until and self.phase is not Phase.ENDED:
                self._until, self._serves_until = now + seconds, min(self._serves_until, now + seconds)
                self._sooner.set()
                log.info("ending: within %(time)g seconds now", {"event": "hastened", "time": seconds})
            return
        self.phase = Phase.LEAVING
        world = self._world
        world.ending = True
        delay: float = world.server["drain_delay"]
        if seconds:
            delay = min(delay, seconds)
            limit = seconds - delay
        else:
            limit = (world.server["graceful_timeout"] if seconds is None else seconds) or inf
        self._serves_until, self._until = now + delay, now + delay + limit
        self._process.notifier.stopping(self._status(), None if limit == inf else delay + limit + GIVE_BACK_SECONDS)
        if delay:
            log.info("ending: serving for %(delay)g seconds more, while /readyz fails", {"event": "leaving", "delay": delay})
            spawn(self._owner, self._leave(), "leave")
        else:
            self._close_listeners(limit)

    async def _leave(self) -> None:
        """Serve on for `drain_delay`, then begin to drain."""
        now = self._world.clock.now
        while (left := self._serves_until - now()) > 0:
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._sooner.wait()
        self._close_listeners(round(max(0.0, self._until - now()), 1))

    def _close_listeners(self, limit: float) -> None:
        """Begin to drain: accept nothing more, and let what is under way finish within `limit` seconds."""
        self.phase = Phase.DRAINING
        world = self._world
        world.draining = True
        time = "no time limit" if limit == inf else f"{limit:g} seconds"
        log.info("ending: requests in flight have %(time)s", {"event": "draining", "time": time})
        for listener in self._listeners.values():
            listener.close()
        for service in world.services.values():
            service.disabled()
        for client in list(world.clients):
            if getattr(client, "management", False):
                continue
            client.shutdown(True)
        spawn(self._owner, self._drain(), "drain")

    async def _drain(self) -> None:
        """Wait until no client is left, consoles aside."""
        world = self._world
        while any(not getattr(client, "management", False) for client in world.clients):
            if world.clock.now() >= self._until:
                log.warning(
                    "%(connections)d connections did not finish in time", {"event": "not_finished", "connections": len(world.clients)}
                )
                break
            await asyncio.sleep(LOOK_SECONDS)
        self.finish()

    def finish(self) -> None:
        """At once."""
        if not self.begun:
            self._process.notifier.stopping("ending at once", GIVE_BACK_SECONDS)
        self.phase = Phase.ENDED
        self._world.ending = True
        self.ended.set()

    async def give_back(self) -> None:
        """Tell plugins of answers that were not acknowledged, while they are open, and give them time to store what was in them."""
        world = self._world
        if not world.deliveries.give_up():
            return
        plugins = [pair for service in world.services.values() if service.opened for pair in service.plugins]
        try:
            await within(GIVE_BACK_SECONDS, asyncio.gather(*(self._quiesce(*pair) for pair in plugins), return_exceptions=True))
        except NotInTime:
            log.warning(
                "answers that clients did not acknowledge could not be given back in %(seconds)g seconds",
                {"event": "not_given_back", "seconds": GIVE_BACK_SECONDS},
            )

    async def _quiesce(self, name: str, plugin: Plugin) -> None:
        """Have a plugin do what it has in hand."""
        try:
            await plugin.quiesce()
        except asyncio.CancelledError:
            raise
        except CAUGHT as error:
            report(self._world, name, "quiesce()", error)
