"""The composition root: a World that was configured becomes listeners, roles and a loop. Knows every layer.

Life of the process:

    configured   the file was read into a World; nothing is open yet, and any mistake in it ends here
    started      every enabled service was bound first, then opened: a port that is taken leaves nothing half running
    serving      one tick a second (life.ticking), and what the model asks for: listeners come and go
    ending       see life.ending

What is around the server in a process of its own (systemd, the pidfile, the user it runs as) is life.process; it is told of each step.
"""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.config.spec import Standing
from pbal.console.management import ManagementRole
from pbal.lang.mistakes import Mistake
from pbal.life.descriptors import Descriptors
from pbal.life.ending import Ending
from pbal.life.process import Process
from pbal.life.ticking import Duty, Tick
from pbal.model import calling
from pbal.model.bound import Bound
from pbal.model.errors import ConfigError
from pbal.model.pool import Node, Pool
from pbal.model.renewal import Watch
from pbal.model.service import Service
from pbal.model.world import World
from pbal.net.announced import accepted
from pbal.net.datagrams import AnyListener, DatagramListener, listen_to_datagrams
from pbal.net.listener import Listener, listen, look_up
from pbal.net.reaching import leave
from pbal.net.tasks import cancel_all, spawn
from pbal.net.tls import ServerLink
from pbal.observe.memory import resident_bytes
from pbal.observe.stuck import ENDING, Signals, Watchdog
from pbal.roles.conversing import ConversingRole
from pbal.roles.proxy.checker import Checker
from pbal.roles.proxy.reproxy.targets import Targets
from pbal.roles.registry import HANDLERS
from pbal.roles.taken import answer_late
from pbal.schema.kinds import Kind
from pbal.schema.types import Endpoint
from pbal.watching import PluginWatch

log = logging.getLogger("pbal")


class Server:
    """A running World. Implements model.world.Runtime."""

    def __init__(self, world: World, interpreter: Interpreter, process: Process | None = None) -> None:
        self.world = world
        self.process = process or Process()
        self.interpreter = interpreter
        self._listeners: dict[str, AnyListener] = {}
        self._found: dict[str, str] = {}
        """Names that were looked up for the statement that is being carried out, and their addresses."""
        self._reloading = False
        """Whether all names that will be bound were looked up before."""
        self._asked = False
        """Whether a SIGHUP came that the reload which is under way, if one is, does not count for."""
        self._reload_task: asyncio.Task[None] | None = None
        self._checker = Checker(world)
        self._certificates = Watch(world)
        self._plugin_watch = PluginWatch(world, interpreter)
        self._descriptors = Descriptors(world, self._listeners)
        self._end = Ending(world, self.process, self._listeners, self.status, self)
        self.ticks = Tick(world, self._duties())
        self.exit_status = 0

    # -- starting ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open everything that is enabled. Raises: ConfigError; nothing is left open then."""
        world = self.world
        self.process.claim(world)
        self._descriptors.set_limit(world.server["max_connections"])
        world.runtime, world.thread = self, get_ident()
        world.nodefiles.start()
        world.names.moved = partial(leave, world.backends)
        enabled = [service for service in world.services.values() if service.enabled]
        try:
            for service in enabled:
                self.attach(service)
                service.open_log(settle=False)
                if service["listen"] is not None:
                    self._listeners[service.name.lower()] = self._bound(service)
            world.settle_logs()
            self.process.bound(world)
            for service in enabled:
                service.open()
            for service in world.services.values():
                if service.standing is Standing.NEW and service.role and service.role != "management":
                    with suppress(ConfigError):  # the log says why; it is open when it is complete and selected
                        world.open_for_selectors(service)
        except Exception:
            self._close_everything()
            self.process.close()
            raise
        for listener in self._listeners.values():
            listener.start()
        self.ticks.begin()

    def _bound(self, service: Service, former: AnyListener | None = None) -> AnyListener:
        """A listener that accepts nothing yet; it goes on with the socket of a former one. Raises: ConfigError."""
        handler: Any = service.handler
        if service.datagrams:
            assert not isinstance(former, Listener)
            return listen_to_datagrams(service, handler.received, former, self._address_of(service["listen"].host))
        assert not isinstance(former, DatagramListener)
        protocol = handler.protocol
        if service.certificates is not None:  # as it was enabled; enable_ssl may have been set since
            protocol = partial(ServerLink, service, handler.protocol)
        if service.role != "management":
            protocol = partial(accepted, service, protocol)
        found = self._address_of(service["listen"].host)
        handed = self._handed_over(service["listen"], found) if former is None else None
        return listen(service, protocol, former, handed, found)

    def _handed_over(self, wanted: Endpoint, found: str) -> socket.socket | None:
        """The socket that somebody bound to an address, if there is one. `found`: what a name in it was looked up to be."""
        if wanted.is_name and self.process.handed.sockets:
            with suppress(OSError):  # who binds it tells of that
                wanted = Endpoint(found or look_up(wanted.host), wanted.port)
        return self.process.handed.take(wanted)

    def _address_of(self, name: str) -> str:
        """What a name was looked up to be; "" if it was not. One statement asks once, a file that is read again perhaps more often."""
        return self._found.get(name, "") if self._reloading else self._found.pop(name, "")

    async def look_up(self, endpoint: Endpoint) -> None:
        """See model.world.Runtime."""
        if endpoint.is_name and not (self._reloading and endpoint.host in self._found):
            if not self._reloading:
                self._found.clear()
            try:
                self._found[endpoint.host] = await asyncio.get_running_loop().run_in_executor(None, look_up, endpoint.host)
            except OSError as error:
                raise ConfigError(f"cannot find the address of {endpoint.host}: {error.strerror or error}", about=str(endpoint)) from None

    async def check_nodes(self, pool: Pool, nodes: Sequence[Node]) -> None:
        """See model.world.Runtime."""
        await self._checker.check_now(pool, nodes)

    async def accepting(self) -> None:
        """Wait until every listener accepts connections. Raises: ConfigError if one cannot."""
        for listener in self._listeners.values():
            try:
                await listener.started()
            except OSError as error:
                why = error.strerror or error
                raise ConfigError(f"service '{listener.service.name}' cannot accept on {listener.address}: {why}") from None

    # Runtime: what the model asks for.

    def attach(self, service: Service) -> None:
        """See model.world.Runtime."""
        if service.handler is None and service.role:
            make = ConversingRole if service.role in self.world.own_roles else HANDLERS.get(service.role)
            service.handler = ManagementRole(service, self.interpreter) if make is None else make(service)

    def bind(self, service: Service) -> AnyListener | None:
        """See model.world.Runtime."""
        old = self._listeners.get(service.name.lower())
        if old is not None and self._is_wanted(old):
            self._address_of(service["listen"].host)
            return None
        if not self._end.accepts:
            raise ConfigError("pbal is ending: nothing listens any more")
        try:
            return self._bound(service, self._given_up(service))
        except ConfigError as error:
            why = error.__context__
            if not (isinstance(why, OSError) and why.errno == errno.EADDRINUSE):
                raise
            raise ConfigError(error.message + self._who_has_it(service), about=error.about, kind=error.kind) from None

    def _who_has_it(self, service: Service) -> str:
        """Added to `Address already in use`: which service has it, if one does, as 0.0.0.0:80 is in the way of ADDRESS:80."""
        kind = DatagramListener if service.datagrams else Listener
        wanted: Endpoint = service["listen"]
        for listener in self._listeners.values():
            has = listener.address
            in_the_way = has == wanted or (has.port == wanted.port != 0 and not {"", "0.0.0.0", "::"}.isdisjoint((has.host, wanted.host)))
            if isinstance(listener, kind) and in_the_way:
                name = listener.service.name
                first = "" if self._is_wanted(listener) else f": DISABLE {name} first"
                return f", by service '{name}' on {has}{first}"
        return ""

    def _given_up(self, service: Service) -> AnyListener | None:
        """The listener on the address of a service that its own service does not want any more, or wants to use otherwise."""
        kind = DatagramListener if service.datagrams else Listener
        wanted: Endpoint = service["listen"]
        if wanted.is_name or wanted.host == "::":  # as a listener tells where it is
            wanted = Endpoint("" if wanted.host == "::" else self._found.get(wanted.host, wanted.host), wanted.port)
        for listener in self._listeners.values():
            if listener.address == wanted and isinstance(listener, kind) and not self._is_wanted(listener):
                return listener
        return None

    def _is_wanted(self, listener: AnyListener) -> bool:
        """Whether its service, if it is there still, is to listen there, and as it does."""
        service = listener.service
        return (
            service.enabled
            and self.world.services.get(service.name.lower()) is service
            and listener.wanted == service["listen"]
            and listener.secured == (service.certificates is not None)
        )

    def serve(self, bound: AnyListener) -> None:
        """See model.world.Runtime."""
        name = bound.service.name.lower()
        old = self._listeners.get(name)
        self._listeners[name] = bound
        bound.take_over()
        if not self._descriptors.paused or bound.service.role == "management":
            bound.start()
        if old is not None:
            old.close()

    def server_set(self, name: str, value: Any) -> None:
        """See model.world.Runtime. What is not named here is read when it is needed."""
        if name == "max_connections":
            self._descriptors.set_limit(value)
        elif name == "log_level":
            logging.getLogger().setLevel(str(value).upper())
        elif name.startswith("file_"):
            self.world.files.forget()

    def reloading(self) -> None:
        """See model.world.Runtime."""
        self._found.clear()
        self._reloading = True
        if not self.ending:  # systemd was told of the end
            self.process.notifier.reloading(self.world.clock.now())

    def reloaded(self) -> None:
        """See model.world.Runtime."""
        self._reloading = False
        if not self.ending:
            self.process.notifier.ready(self.status())

    def refresh(self, service: Service) -> None:
        """See model.world.Runtime."""
        listener = self._listeners.get(service.name.lower())
        if listener is not None and listener.service is service:
            try:
                listener.refresh()
            except OSError as error:
                message = f"the system refuses it for {listener.address}: {error.strerror or error}"
                if isinstance(error, FileNotFoundError):
                    message = f"the file of {listener.address} is gone, and nobody reaches it: DISABLE {service.name}, then ENABLE it"
                raise ConfigError(message, about=service.name, kind=Kind.SYSTEM) from None

    def unlisten(self, service: Service) -> None:
        """See model.world.Runtime."""
        listener = self._listeners.get(service.name.lower())
        if listener is not None and listener.service is service:
            del self._listeners[service.name.lower()]
            listener.close()

    def listeners(self) -> list[Any]:
        """See model.world.Runtime."""
        return list(self._listeners.values())

    def address(self, service: str) -> tuple[str, int]:
        """Where a service really listens: tests say port 0."""
        endpoint = self._listeners[service.lower()].address
        return endpoint.host or "127.0.0.1", endpoint.port

    # -- the tick ------------------------------------------------------------------------------------------------

    def _duties(self) -> list[Duty]:
        """What the tick does beside deadlines and services, in this order."""
        world, now = self.world, self.world.clock.now
        return [
            ("taken requests", lambda: answer_late(world, now())),
            ("servers that nodes name", lambda: None if world.targets is None else Targets.of(world).tick(now())),
            ("names", lambda: world.names.tick(now())),
            ("checks of nodes", lambda: self._checker.tick(now())),
            ("descriptors", lambda: self._descriptors.watch(self._end.accepts)),
            ("access logs", self._watch_access_logs),
            ("spools", lambda: world.bodies.tick(now())),
            ("files", lambda: world.files.tick(now())),
            ("notify", self._tell),
            ("what was written", self._look_at_files),
        ]

    def _look_at_files(self) -> None:
        """Take up what was written: certificates, plugins, nodes."""
        world = self.world
        if self._certificates.due(world.second):
            spawn(self, self._certificates.look(), "look at certificates")
        if self._plugin_watch.due():
            spawn(self, self._plugin_watch.look(self.interpreter.alone), "look at plugins")
        if world.nodefiles.due():
            spawn(self, world.nodefiles.look(self.interpreter.alone), "look at node files")

    def _tell(self) -> None:
        if self.process.notifier.heard:
            self.process.beat(self.world, self.status())

    def status(self) -> str:
        """For `systemctl status`."""
        world = self.world
        state = "accepting no more connections" if self._descriptors.paused and not self.ending else self._end.phase.value
        parked = world.counters.counts.get("poll_parked", 0)
        return f"{state}: {len(world.clients)} clients, {parked} parked, {len(world.backends)} backends"

    def _watch_access_logs(self) -> None:
        world = self.world
        world.access.tick(world.counters.counts, world.log_limited)

    @property
    def descriptor_limit(self) -> int:
        """See model.world.Runtime."""
        return self._descriptors.limit

    def out_of_room(self) -> None:
        """See model.world.Runtime."""
        self._descriptors.pause()

    # -- ending --------------------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether an end, graceful or not, has begun."""
        return self._end.begun

    def signalled(self, number: signal.Signals) -> None:
        """A signal, on the loop. The first that is to end pbal ends it gracefully, the second at once."""
        if number is signal.SIGUSR1:
            if self.world.access.reopen():
                log.info("%(signal)s: the files of access logs are opened anew", {"event": "logs_reopened", "signal": number.name})
            else:
                log.info("%(state)s", {"event": "state", "state": self._state()})
            return
        if number not in ENDING:
            if number is not signal.SIGHUP:
                log.warning("%(signal)s: nothing is done on it", {"event": "signal", "signal": number.name})
            elif not self.ending:
                self._asked = True
                if self._reload_task is None or self._reload_task.done():
                    self._reload_task = spawn(self, self._reload(), "reload")
            return
        if self.ending:
            log.warning("second signal, %(signal)s: ending at once", {"event": "ending_at_once", "signal": number.name})
            self._end.finish()
            return
        self._end.begin(None)

    async def _reload(self) -> None:
        """SIGHUP: the configuration file again; once more for all that came meanwhile, as the file may have been read before."""
        while self._asked and not self.ending:
            self._asked = False
            try:
                await self.interpreter.execute(Session(self.world, self.interpreter, origin="SIGHUP"), "RELOAD CONFIG")
            except Mistake as mistake:
                log.error("%(signal)s: %(reason)s", {"event": "reload_refused", "signal": "SIGHUP", "reason": mistake.in_one_line()})

    def _state(self) -> str:
        """One line for SIGUSR1."""
        world = self.world
        counts = world.counters.counts
        return (
            f"state: up {world.clock.now() - world.started_at:.0f} s{f', {self._end.phase.value}' if self.ending else ''}; "
            f"{len(world.clients)} clients, {counts.get('poll_parked', 0)} parked, {len(world.backends)} backends; "
            f"{counts['requests']} requests; {resident_bytes() // 1024} KB resident; "
            f"loop at most {counts['loop_lag_max_ms']} ms late in a minute"
        )

    async def shutdown(self, graceful: bool, seconds: float | None) -> None:
        """See model.world.Runtime."""
        if graceful:
            self._end.begin(seconds)
        else:
            self._end.finish()

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
        self.ticks.close()
        self._checker.close()
        self.world.deliveries.close()
        self.world.runtime = None

    async def run(self) -> None:
        """Serve until shutdown; then close everything."""
        try:
            await self._end.ended.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close everything now. Also for tests."""
        await self._end.give_back()
        self._close_everything()
        cancel_all(self)
        await asyncio.sleep(0)  # transports report their end in the next turn
        await asyncio.sleep(0)
        self._watch_access_logs()
        self.world.bodies.close()
        self.world.access.close()
        self.process.close()


async def serve(world: World, interpreter: Interpreter, process: Process | None = None) -> int:
    """Run a configured World until a signal or a SHUTDOWN ends it; the exit status.

    Raises: ConfigError if it cannot start.
    """
    server = Server(world, interpreter, process)
    now = world.clock.now
    Signals(server.signalled, lambda: now() - server.ticks.lag.turned, lambda: server.ending, _running, server.process.flush).install()
    server.ticks.watchdog = Watchdog()
    try:
        server.ticks.watchdog.arm()
        server.start()
        await _begin(server)
        await server.run()
    finally:
        server.ticks.watchdog.close()
    return server.exit_status


async def _begin(server: Server) -> None:
    """Everything is bound: when it accepts connections, too, tell whoever waits for that. Raises: ConfigError; all is closed then."""
    try:
        await server.accepting()
        log.info("at most %(files)d open files", {"event": "descriptors", "files": server.descriptor_limit})
        for listener in server.listeners():
            service, address = listener.service, str(listener.address)
            fields = {"event": "listening", "service": service.name, "role": service.role, "address": address}
            log.info("%(service)s (%(role)s) listens on %(address)s", fields)
        if not server.listeners():
            raise ConfigError("no service listens: nothing to do")
        if server.process.listening(server.world, server.status()) and server.ticks.watchdog is not None:
            server.ticks.watchdog.close()  # it held the terminal
            server.ticks.watchdog = Watchdog()
            server.ticks.watchdog.arm()
    except ConfigError:
        await server.close()
        raise


def _running() -> str:
    """The plugin and hook that run at this moment; nothing where none does."""
    bound: Bound | None = getattr(calling, "running", None)
    return "" if bound is None else f"plugin {bound.plugin}, hook {bound.hook}"
