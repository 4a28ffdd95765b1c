"""The composition root: a World that was configured becomes listeners, roles and a loop. Knows every layer.

Life of the process:

    configured   the file was read into a World; nothing is open yet, and any mistake in it ends here
    started      every enabled service was bound first, then opened: a port that is taken leaves nothing half running
    serving      one tick a second: deadlines, idle sweeps, descriptors
    draining     first signal or SHUTDOWN GRACEFUL: listeners closed, parked polls answered empty, idle connections
                 closed, requests in flight may finish within graceful_timeout
    ended        nothing left, the time is over, or a second signal

The tick is the only timer that always runs. Idle, that is one wake-up a second.
"""

import asyncio
import logging
import os
import resource
import signal
from typing import Any

from pbal.commands.interpreter import Interpreter
from pbal.console.management import ManagementRole
from pbal.model.errors import ConfigError
from pbal.model.service import Service
from pbal.model.world import World
from pbal.net.listener import Listener, listen
from pbal.net.tasks import cancel_all, spawn
from pbal.roles.proxy.role import ReverseProxy
from pbal.roles.selector import Selector
from pbal.roles.web.role import WebServer

log = logging.getLogger("pbal")

ROLES: dict[str, Any] = {
    "reverse_proxy": ReverseProxy,
    "web_server": WebServer,
    "selector": Selector,
    "management": ManagementRole,
}

DESCRIPTORS_KEPT = 64
"""Descriptors kept free for backends, memcached, files and the console when accepting stops."""


def raise_descriptor_limit(wanted: int | None = None) -> int:
    """Raise the soft limit of open files to the hard one (or to `wanted`); the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = hard if wanted is None or hard == resource.RLIM_INFINITY else min(wanted, hard)
    if goal == resource.RLIM_INFINITY:
        goal = wanted or 1 << 20
    if goal != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        except (OSError, ValueError) as error:
            log.warning("cannot raise the limit of open files from %d to %d: %s", soft, goal, error)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _open_descriptors() -> int:
    """Descriptors of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


class Server:
    """A running World. Implements model.world.Runtime."""

    def __init__(self, world: World, interpreter: Interpreter) -> None:
        self.world = world
        self.interpreter = interpreter
        self._listeners: dict[str, Listener] = {}
        self._ended = asyncio.Event()
        self._ending = False
        self._tick_handle: asyncio.TimerHandle | None = None
        self._paused = False
        self.descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.exit_status = 0

    # -- starting ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open everything that is enabled. Raises: ConfigError; nothing is left open then."""
        world = self.world
        self.descriptor_limit = raise_descriptor_limit(world.server.get("max_connections"))
        world.runtime = self
        world.room = self.descriptor_limit - DESCRIPTORS_KEPT
        enabled = [service for service in world.services.values() if service.enabled]
        try:
            for service in world.services.values():
                self.attach(service)
            for service in enabled:
                if service["listen"] is not None:
                    self._bind(service)
            for service in world.services.values():
                if service.handler is not None and service.role:
                    service.open()
        except Exception:
            self._close_everything()
            raise
        for listener in self._listeners.values():
            listener.start()
        self._tick()

    def _bind(self, service: Service) -> Listener:
        handler: Any = service.handler
        listener = listen(service, handler.protocol)
        self._listeners[service.name.lower()] = listener
        return listener

    # Runtime: what the model asks for.

    def attach(self, service: Service) -> None:
        """See model.world.Runtime."""
        if service.handler is None and service.role:
            role = ROLES[service.role]
            service.handler = role(service, self.interpreter) if role is ManagementRole else role(service)

    def listen(self, service: Service) -> None:
        """See model.world.Runtime."""
        old = self._listeners.get(service.name.lower())
        if old is not None and service["listen"] is None:
            self.unlisten(service)
            return
        if old is not None and old.address == service["listen"]:
            return
        self._bind(service).start()
        if old is not None:
            old.close()

    def unlisten(self, service: Service) -> None:
        """See model.world.Runtime."""
        listener = self._listeners.pop(service.name.lower(), None)
        if listener is not None:
            listener.close()

    def listeners(self) -> list[Any]:
        """See model.world.Runtime."""
        return list(self._listeners.values())

    def address(self, service: str) -> tuple[str, int]:
        """Where a service really listens: tests say port 0."""
        endpoint = self._listeners[service.lower()].address
        return endpoint.host or "127.0.0.1", endpoint.port

    # -- the tick ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Once a second."""
        self._tick_handle = asyncio.get_running_loop().call_later(1.0, self._tick)
        world = self.world
        now = world.clock.now()
        world.second = int(now)
        try:
            for client in [client for client in world.clients if client.deadline < now]:
                client.expired(now)
            for backend in [backend for backend in world.backends if backend.deadline < now]:
                backend.expired(now)
            for service in world.services.values():
                tick = getattr(service.handler, "tick", None)
                if tick is not None:
                    tick(now)
            self._watch_descriptors()
        except Exception as error:  # a fault in one connection must not end every deadline
            log.exception("tick: %r", error)

    def out_of_room(self) -> None:
        """See model.world.Runtime: stop accepting, and say so once."""
        if self._paused:
            return
        self._paused = True
        self.world.counters.counts["accept_pauses"] += 1
        used = len(self.world.clients)
        log.warning("%d connections, %d descriptors at most: accepting no more connections", used, self.descriptor_limit)
        for listener in self._listeners.values():
            if listener.service.role != "management":
                listener.pause()

    def _watch_descriptors(self) -> None:
        """Stop accepting when descriptors run short; go on when there is room again."""
        world = self.world
        used = len(world.clients) + len(world.backends)
        if not self._paused and used > world.room - 4 * DESCRIPTORS_KEPT and _open_descriptors() > world.room + DESCRIPTORS_KEPT // 2:
            self.out_of_room()  # something else holds many: files, a plugin's sockets
        elif self._paused and used < world.room - DESCRIPTORS_KEPT // 2 and not self._ending:
            self._paused = False
            log.warning("%d connections: accepting again", used)
            for listener in self._listeners.values():
                listener.start()

    # -- ending --------------------------------------------------------------------------------------------------

    def signalled(self) -> None:
        """SIGTERM or SIGINT: the first ends gracefully, the second at once."""
        if self._ending:
            log.warning("second signal: ending at once")
            self._finish()
            return
        spawn(self, self.shutdown(True, None), "shutdown")

    async def shutdown(self, graceful: bool, seconds: float | None) -> None:
        """See model.world.Runtime."""
        if not graceful:
            self._finish()
            return
        if self._ending:
            return
        self._ending = True
        self.world.draining = True
        limit = self.world.server["graceful_timeout"] if seconds is None else seconds
        log.info("ending: requests in flight have %g seconds", limit)
        for listener in self._listeners.values():
            listener.close()
        for service in self.world.services.values():
            if service.opened:
                for _, plugin in service.plugins:
                    plugin.service_disabled()
        for client in list(self.world.clients):
            if getattr(client, "management", False):
                continue
            client.shutdown(True)
        spawn(self, self._drain(limit), "drain")

    async def _drain(self, limit: float) -> None:
        """Wait until no client is left, consoles aside."""
        end = self.world.clock.now() + limit
        while any(not getattr(client, "management", False) for client in self.world.clients):
            if self.world.clock.now() >= end:
                log.warning("%d connections did not finish in time", len(self.world.clients))
                break
            await asyncio.sleep(0.02)
        self._finish()

    def _finish(self) -> None:
        self._ending = True
        self._ended.set()

    def _close_everything(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for service in self.world.services.values():
            service.close()
        for client in list(self.world.clients):
            client.shutdown(False)
        for backend in list(self.world.backends):
            backend.abort()
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        self.world.runtime = None

    async def run(self) -> None:
        """Serve until shutdown; then close everything."""
        try:
            await self._ended.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close everything now. Also for tests."""
        self._close_everything()
        cancel_all(self)
        await asyncio.sleep(0)  # transports report their end in the next turn
        await asyncio.sleep(0)


async def serve(world: World, interpreter: Interpreter, ready: Any = None) -> int:
    """Run a configured World until a signal or a SHUTDOWN ends it; the exit status.

    Raises: ConfigError if it cannot start.
    """
    server = Server(world, interpreter)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.signalled)
    server.start()
    await asyncio.sleep(0)
    log.info("at most %d open files", server.descriptor_limit)
    for listener in server.listeners():
        log.info("%s (%s) listens on %s", listener.service.name, listener.service.role, listener.address)
    if not server.listeners():
        raise ConfigError("no service listens: nothing to do")
    if ready is not None:
        ready(server)
    await server.run()
    return server.exit_status
