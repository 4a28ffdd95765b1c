"""The composition root: a World that was configured becomes listeners, roles and a loop. Knows every layer.

Life of the process:

    configured   the file was read into a World; nothing is open yet, and any mistake in it ends here
    started      every enabled service was bound first, then opened: a port that is taken leaves nothing half running
    serving      one tick a second: deadlines, idle sweeps, descriptors
    leaving      first signal or SHUTDOWN GRACEFUL: everything is served as before, for drain_delay, but /readyz fails, so that a
                 balancer in front sends its requests elsewhere (world.ending)
    draining     listeners closed, parked polls answered empty, idle connections closed, requests in flight may finish within
                 graceful_timeout (world.draining)
    ended        nothing left, the time is over, or a second signal

What is around the server in a process of its own (systemd, the pidfile, the user it runs as) is life.process; it is told of each step.

The tick is the only timer that always runs. Idle, that is one wake-up a second. Each of its duties is isolated: one
connection whose deadline cannot be carried out is aborted, and the others have theirs. What holds while the loop does
not turn at all is in observe.stuck, what is measured of its lag in observe.loop.
"""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import islice
from math import inf
from threading import get_ident
from typing import Any

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.config.spec import Standing
from pbal.console.management import ManagementRole
from pbal.lang.mistakes import Mistake
from pbal.life.process import Process
from pbal.model import calling
from pbal.model.bound import Bound
from pbal.model.errors import ConfigError
from pbal.model.faults import report
from pbal.model.measures import histograms
from pbal.model.openfiles import MOST_OPEN
from pbal.model.pool import Node, Pool
from pbal.model.renewal import Watch
from pbal.model.service import Service
from pbal.model.world import World
from pbal.net.announced import accepted
from pbal.net.datagrams import DatagramListener, listen_to_datagrams
from pbal.net.listener import Listener, listen, look_up
from pbal.net.reaching import leave
from pbal.net.tasks import cancel_all, spawn
from pbal.net.tls import ServerLink
from pbal.observe.histogram import TURN, Histogram
from pbal.observe.loop import LoopLag
from pbal.observe.memory import resident_bytes
from pbal.observe.stuck import ENDING, Signals, Watchdog
from pbal.roles.conversing import ConversingRole
from pbal.roles.proxy.checker import Checker
from pbal.roles.registry import HANDLERS
from pbal.schema.types import Endpoint
from pbal.watching import PluginWatch

log = logging.getLogger("pbal")

DESCRIPTORS_KEPT = 64
"""Descriptors kept free for backends, memcached, files and the console when accepting stops."""

TURNED = 250
"""Histograms turned at one tick: 5 ms at most. With ten times as many, the last minute becomes a longer one."""

GIVE_BACK_SECONDS = 2.0
"""How long plugins may store what clients did not acknowledge, when the process ends."""


def raise_descriptor_limit(wanted: int | None = None) -> int:
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


def _open_descriptors() -> int:
    """Descriptors of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


AnyListener = Listener | DatagramListener


class Phase(Enum):
    """Where in its life a server is."""

    SERVING = "serving"
    LEAVING = "leaving"
    DRAINING = "draining"
    ENDED = "ended"


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
        self._ended = asyncio.Event()
        self._phase = Phase.SERVING
        self._tick_handle: asyncio.TimerHandle | None = None
        self._checker = Checker(world)
        self._paused = False
        self._turned = world.second // TURN
        """Which turn of the histograms was the last."""
        self._turning: Iterator[Histogram] | None = None
        """Those of this turn that are still to be turned."""
        self.descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._kept = DESCRIPTORS_KEPT
        self.exit_status = 0
        self._certificates = Watch(world)
        self._plugin_watch = PluginWatch(world, interpreter)
        self.lag = LoopLag(world.clock.now, world.counters.counts, self._stalled)
        self.watchdog: Watchdog | None = None
        """Armed by the tick; the process has one, servers in tests have none."""

    # -- starting ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open everything that is enabled. Raises: ConfigError; nothing is left open then."""
        world = self.world
        self.process.claim(world)
        self._limit_descriptors(world.server["max_connections"])
        world.runtime, world.thread = self, get_ident()
        world.nodefiles.start()
        world.names.moved = partial(leave, world.backends)
        enabled = [service for service in world.services.values() if service.enabled]
        try:
            for service in enabled:
                self.attach(service)
                service.open_log()
                if service["listen"] is not None:
                    self._listeners[service.name.lower()] = self._bound(service)
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
        self.lag.begin()
        self._tick()

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
        handed = self.process.handed.take(service["listen"]) if former is None else None
        return listen(service, protocol, former, handed, self._address_of(service["listen"].host))

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
        if self._phase not in (Phase.SERVING, Phase.LEAVING):
            raise ConfigError("pbal is ending: nothing listens any more")
        return self._bound(service, self._given_up(service))

    def _given_up(self, service: Service) -> AnyListener | None:
        """The listener on the address of a service that its own service does not want any more, or wants to use otherwise."""
        kind = DatagramListener if service.datagrams else Listener
        for listener in self._listeners.values():
            if listener.address == service["listen"] and isinstance(listener, kind) and not self._is_wanted(listener):
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
        if not self._paused or bound.service.role == "management":
            bound.start()
        if old is not None:
            old.close()

    def server_set(self, name: str, value: Any) -> None:
        """See model.world.Runtime. What is not named here is read when it is needed."""
        if name == "max_connections":
            self._limit_descriptors(value)
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
            self.process.notifier.ready(self._status())

    def _limit_descriptors(self, wanted: int | None) -> None:
        """Raises: ConfigError if the system refuses `wanted`."""
        self.descriptor_limit = raise_descriptor_limit(wanted)
        self._kept = min(DESCRIPTORS_KEPT, self.descriptor_limit // 2)
        self.world.room = self.descriptor_limit - self._kept
        self.world.files.most_open = min(MOST_OPEN, self.descriptor_limit // 8)

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

    def _tick(self) -> None:
        """Once a second."""
        self._tick_handle = asyncio.get_running_loop().call_later(1.0, self._tick)
        world = self.world
        now = world.clock.now()
        world.second = int(now)
        self.lag.tick()
        if self.watchdog is not None:
            self.watchdog.arm()
        for connections in (world.clients, world.backends):
            for connection in [connection for connection in connections if connection.deadline < now]:
                try:
                    connection.expired(now)
                except Exception as error:  # noqa: BLE001 - the deadlines of all others are to be kept
                    self._give_up(connection, error)
        for service in world.services.values():
            tick = getattr(service.handler, "tick", None)
            if tick is not None:
                self._duty(f"tick of {service.name}", tick, now)
        for listener in self._listeners.values():
            self._duty(f"keep-alive of {listener.service.name}", listener.refresh)
        self._duty("names", world.names.tick, now)
        self._duty("checks of nodes", self._checker.tick, now)
        self._duty("descriptors", self._watch_descriptors)
        self._duty("access logs", self._watch_access_logs)
        self._duty("spools", world.bodies.tick, now)
        self._duty("files", world.files.tick, now)
        self._duty("histograms", self._turn_histograms)
        self._duty("notify", self._tell)
        self._duty("files", self._look_at_files)
        world.limited.tell_left_out()

    def _look_at_files(self) -> None:
        """Take up what was written: certificates, plugins, nodes."""
        world = self.world
        if self._certificates.due(world.second):
            spawn(self, self._certificates.look(), "look at certificates")
        if self._plugin_watch.due():
            spawn(self, self._plugin_watch.look(self.interpreter.alone), "look at plugins")
        if world.nodefiles.due():
            spawn(self, world.nodefiles.look(self.interpreter.alone), "look at node files")

    def _turn_histograms(self) -> None:
        """Move their windows on, once in TURN seconds: some at each tick, for there is one for each node."""
        turn = self.world.second // TURN
        if self._turning is None and turn > self._turned:
            self._turned = turn
            self._turning = histograms(self.world)
        if self._turning is not None:
            some = list(islice(self._turning, TURNED))
            for histogram in some:
                histogram.turn()
            if len(some) < TURNED:
                self._turning = None

    def _tell(self) -> None:
        if self.process.notifier.heard:
            self.process.beat(self.world, self._status())

    def _status(self) -> str:
        """For `systemctl status`."""
        world = self.world
        state = "accepting no more connections" if self._paused and self._phase is Phase.SERVING else self._phase.value
        parked = world.counters.counts.get("poll_parked", 0)
        return f"{state}: {len(world.clients)} clients, {parked} parked, {len(world.backends)} backends"

    def _watch_access_logs(self) -> None:
        world = self.world
        world.access.tick(world.counters.counts, world.log_limited)

    def _duty(self, what: str, duty: Callable[..., None], *args: float) -> None:
        """One thing the tick does; a fault in it ends it alone."""
        try:
            duty(*args)
        except Exception as error:  # whatever it is, the other duties are to be done
            self.world.counters.counts["tick_errors"] += 1
            self.world.log_limited(what, "%(what)s: %(fault)s", {"event": "tick_failed", "what": what, "fault": repr(error)})
            log.debug("the whole of it", exc_info=error)

    def _give_up(self, connection: Any, error: Exception) -> None:
        """Abort a connection whose deadline could not be carried out."""
        connection.deadline = inf
        self.world.counters.counts["tick_errors"] += 1
        try:
            text = connection.describe().text
        except Exception:  # noqa: BLE001 - it is broken already
            text = repr(connection)
        self.world.log_limited(
            "deadline",
            "aborted, since its deadline failed with %(fault)s: %(connection)s",
            {"event": "deadline_failed", "fault": repr(error), "connection": text},
        )
        log.debug("the whole of it", exc_info=error)
        if connection.transport is not None:  # its own abort() may be what is broken; connection_lost still comes
            connection.transport.abort()

    def _stalled(self, lag: float, processor: float, requests: int) -> None:
        self.world.log_limited(
            "loop lag",
            "the loop was blocked for %(ms)d ms (%(computing)d ms of it computing; %(requests)d requests were read)",
            {"event": "loop_stalled", "ms": round(lag * 1000), "computing": round(processor * 1000), "requests": requests},
        )

    def out_of_room(self) -> None:
        """See model.world.Runtime: stop accepting, and say so once."""
        if self._paused or (self.world.files.shed() and self._used() <= self.world.room):
            return
        self._paused = True
        self.world.counters.counts["accept_pauses"] += 1
        used = len(self.world.clients)
        log.warning(
            "%(connections)d connections, %(descriptors)d descriptors at most: accepting no more connections",
            {"event": "accept_paused", "connections": used, "descriptors": self.descriptor_limit},
        )
        for listener in self._listeners.values():
            if listener.service.role != "management":
                listener.pause()

    def _used(self) -> int:
        """Descriptors of connections and files."""
        world = self.world
        return len(world.clients) + len(world.backends) + len(world.bodies.spools) + len(world.files.open)

    def _watch_descriptors(self) -> None:
        """Stop accepting when descriptors run short; go on when there is room again."""
        world = self.world
        used = self._used()
        if not self._paused and used > world.room - 4 * self._kept and _open_descriptors() > world.room + self._kept // 2:
            self.out_of_room()  # something else holds many: a plugin's sockets
        elif self._paused and used < world.room - self._kept // 2 and self._phase in (Phase.SERVING, Phase.LEAVING):
            self._paused = False
            log.warning("%(connections)d connections: accepting again", {"event": "accept_resumed", "connections": used})
            for listener in self._listeners.values():
                listener.start()

    # -- ending --------------------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether an end, graceful or not, has begun."""
        return self._phase is not Phase.SERVING

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
                spawn(self, self._reload(), "reload")
            return
        if self.ending:
            log.warning("second signal, %(signal)s: ending at once", {"event": "ending_at_once", "signal": number.name})
            self._finish()
            return
        spawn(self, self.shutdown(True, None), "shutdown")

    async def _reload(self) -> None:
        """SIGHUP: the configuration file again."""
        try:
            await self.interpreter.execute(Session(self.world, self.interpreter, origin="SIGHUP"), "RELOAD CONFIG")
        except Mistake as mistake:
            log.error("%(signal)s: %(reason)s", {"event": "reload_refused", "signal": "SIGHUP", "reason": mistake.in_one_line()})

    def _state(self) -> str:
        """One line for SIGUSR1."""
        world = self.world
        counts = world.counters.counts
        return (
            f"state: up {world.clock.now() - world.started_at:.0f} s{'' if self._phase is Phase.SERVING else f', {self._phase.value}'}; "
            f"{len(world.clients)} clients, {counts.get('poll_parked', 0)} parked, {len(world.backends)} backends; "
            f"{counts['requests']} requests; {resident_bytes() // 1024} KB resident; "
            f"loop at most {counts['loop_lag_max_ms']} ms late in a minute"
        )

    async def shutdown(self, graceful: bool, seconds: float | None) -> None:
        """See model.world.Runtime."""
        if not graceful:
            self._finish()
            return
        if self.ending:
            return
        self._phase = Phase.LEAVING
        self.world.ending = True
        delay: float = self.world.server["drain_delay"]
        if seconds:  # of all that there is
            delay = min(delay, seconds)
            limit = seconds - delay
        else:
            limit = (self.world.server["graceful_timeout"] if seconds is None else seconds) or inf
        self.process.notifier.stopping(self._status(), None if limit == inf else delay + limit + GIVE_BACK_SECONDS)
        if delay:
            log.info("ending: serving for %(delay)g seconds more, while /readyz fails", {"event": "leaving", "delay": delay})
            spawn(self, self._leave(delay, limit), "leave")
        else:
            self._close_listeners(limit)

    async def _leave(self, delay: float, limit: float) -> None:
        """Serve on for `drain_delay`, then begin to drain."""
        await asyncio.sleep(delay)
        self._close_listeners(limit)

    def _close_listeners(self, limit: float) -> None:
        """Begin to drain: accept nothing more, and let what is under way finish within `limit` seconds."""
        self._phase = Phase.DRAINING
        self.world.draining = True
        time = "no time limit" if limit == inf else f"{limit:g} seconds"
        log.info("ending: requests in flight have %(time)s", {"event": "draining", "time": time})
        for listener in self._listeners.values():
            listener.close()
        for service in self.world.services.values():
            service.disabled()
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
                log.warning(
                    "%(connections)d connections did not finish in time", {"event": "not_finished", "connections": len(self.world.clients)}
                )
                break
            await asyncio.sleep(0.02)
        self._finish()

    def _finish(self) -> None:
        if not self.ending:
            self.process.notifier.stopping("ending at once", GIVE_BACK_SECONDS)
        self._phase = Phase.ENDED
        self.world.ending = True
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
        self._checker.close()
        self.lag.close()
        self.world.deliveries.close()
        self.world.runtime = None

    async def _give_back(self) -> None:
        """Tell plugins of answers that were not acknowledged, while they are open, and give them time to store what was in them."""
        if not self.world.deliveries.give_up():
            return
        plugins = [pair for service in self.world.services.values() if service.opened for pair in service.plugins]
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                faults = await asyncio.gather(*(plugin.quiesce() for _, plugin in plugins), return_exceptions=True)
        except TimeoutError:
            log.warning(
                "answers that clients did not acknowledge could not be given back in %(seconds)g seconds",
                {"event": "not_given_back", "seconds": GIVE_BACK_SECONDS},
            )
            return
        for (name, _), fault in zip(plugins, faults, strict=True):
            if fault is not None:
                report(self.world, name, "quiesce()", fault)

    async def run(self) -> None:
        """Serve until shutdown; then close everything."""
        try:
            await self._ended.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close everything now. Also for tests."""
        await self._give_back()
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
    Signals(server.signalled, lambda: now() - server.lag.turned, lambda: server.ending, _running, server.process.flush).install()
    server.watchdog = Watchdog()
    try:
        server.watchdog.arm()
        server.start()
        await _begin(server)
        await server.run()
    finally:
        server.watchdog.close()
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
        if server.process.listening(server.world, server._status()) and server.watchdog is not None:
            server.watchdog.close()  # it held the terminal
            server.watchdog = Watchdog()
            server.watchdog.arm()
    except ConfigError:
        await server.close()
        raise


def _running() -> str:
    """The plugin and hook that run at this moment; nothing where none does."""
    bound: Bound | None = getattr(calling, "running", None)
    return "" if bound is None else f"plugin {bound.plugin}, hook {bound.hook}"
