"""Connections to the servers that X-REPROXY-URL names: one Target for each scheme, host and port, for the whole process.

    seek -> (the name is looked up) -> what of it the service may reach -> an idle connection, or a new one, or a place in the queue
         -> assigned        the connection is the fetch's until release()
         -> unreachable     no address, none that may be reached, or no connection: the next URL's turn

A connection goes to an address that was looked at, and is known by it: another fetch, of a service that may not reach that address, does
not get it, whatever the name says today. `SERVER max_reproxy_connections` bounds the connections of a Target; who finds no room waits, and
the longest waiting one gets what becomes free. Where a connection fails and there is no other one, nobody waits on: all of them go to their
next URL. Idle connections close after IDLE seconds, and a Target that is of no use is forgotten a while later, or nodes could fill memory
with names.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Final, cast

from pbal.http1.reader import Limits
from pbal.model.certificates import backend_context
from pbal.model.pool import Node, Pool
from pbal.model.world import World
from pbal.net import backend as link
from pbal.net.backend import REPROXY, BackendConnection, Owner
from pbal.net.reaching import made
from pbal.net.tasks import cancel_all, spawn
from pbal.net.tls import ClientLink
from pbal.roles.proxy.reading import Reading
from pbal.schema.types import Endpoint

IDLE: Final = 5.0
"""Seconds that a connection is kept for the next fetch; Perlbal's."""
KNOWN: Final = 5.0
"""Seconds for which the addresses of a name are remembered."""
FORGOTTEN: Final = 60.0
"""Seconds after its last use in which a Target is forgotten."""
MOST_ADDRESSES: Final = 16
_LIMITS: Final = Limits(max_head=262144, max_fields=1000)


class Fetcher(Reading):
    """Who wants something of a Target."""

    addresses: list[str]
    """Where it may go, of the addresses of this Target; those that failed are taken out."""
    connect_timeout: float
    """Seconds."""
    fresh: bool
    """Whether only a new connection will do: a kept one was stale."""
    gives_up_at: float
    """When it waits no longer for a connection (clock time)."""
    service_name: str

    @abstractmethod
    def may_reach(self, target: "Target", addresses: Iterable[str]) -> bool:
        """The target's addresses are known: whether it may go to any of them. They are in `addresses` then."""

    @abstractmethod
    def assigned(self, backend: BackendConnection) -> None:
        """`backend` is yours."""

    @abstractmethod
    def unreachable(self, why: str) -> None:
        """There will be no connection to this target."""

    @abstractmethod
    def give_up(self) -> None:
        """It waited for too long, or its service is going."""


class Target(Owner):
    """See above."""

    __slots__ = (
        "_known_until", "_looked_up", "_looking_up", "_nodes", "_pool", "busy", "host", "idle", "label", "looking", "name",
        "opening", "port", "scheme", "used_at", "waiting", "world",
    )  # fmt: skip

    def __init__(self, world: World, pool: Pool, scheme: str, host: str, port: int) -> None:
        self.world = world
        self.name = REPROXY
        self.scheme, self.host, self.port = scheme, host, port
        self.label = str(Endpoint(host, port))
        self.waiting: dict[Fetcher, None] = {}
        """Without a connection, in order of arrival; one may be being opened for them."""
        self.looking: dict[Fetcher, None] = {}
        """Those that wait for the name to be looked up."""
        self.opening: dict[BackendConnection, Fetcher] = {}
        self.busy: dict[BackendConnection, None] = {}
        self.idle: deque[BackendConnection] = deque()
        self.used_at = world.clock.now()
        self._pool = pool
        self._nodes: dict[str, Node] = {}
        self._looked_up: list[str] = []
        self._known_until = 0.0
        self._looking_up = False
        with contextlib.suppress(ValueError):
            self._looked_up, self._known_until = [str(ipaddress.ip_address(host))], inf

    @property
    def count(self) -> int:
        """Connections, those that are being opened included."""
        return len(self.opening) + len(self.busy) + len(self.idle)

    @property
    def most(self) -> int:
        """How many there may be; 0: as many as are wanted."""
        server = self.world.server
        return int(server.get(f"max_reproxy_connections({self.label})") or server["max_reproxy_connections"])

    # -- fetches -------------------------------------------------------------------------------------------------

    def seek(self, fetch: Fetcher) -> None:
        """Find a connection for `fetch`."""
        self.used_at = now = self.world.clock.now()
        if self._known_until >= now:
            self._admit(fetch)
            return
        self.looking[fetch] = None
        if not self._looking_up:
            self._looking_up = True
            spawn(self, self._look_up(fetch.connect_timeout), f"look up {self.host}")

    def forget(self, fetch: Fetcher) -> None:
        """It waits no longer."""
        self.waiting.pop(fetch, None)
        self.looking.pop(fetch, None)

    async def _look_up(self, seconds: float) -> None:
        """Find the addresses of the name, off the loop."""
        why = f"{self.host}: no address was found in time"
        found: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                infos = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(info[4][0]) for info in infos))[:MOST_ADDRESSES]
            why = f"{self.host}: no address"
        except TimeoutError:
            pass  # which `why` says
        except (OSError, UnicodeError) as error:
            why = f"{self.host}: {error}"
        finally:
            self._looking_up = False
        if found:
            self._looked_up, self._known_until = found, self.world.clock.now() + KNOWN
        looking, self.looking = self.looking, {}
        for fetch in looking:
            if found:
                self._admit(fetch)
            else:
                fetch.unreachable(why)

    def _admit(self, fetch: Fetcher) -> None:
        """The addresses are known: give it a connection, or a place in the queue."""
        if not fetch.may_reach(self, self._looked_up):
            return
        backend = None if fetch.fresh else self._idle_for(fetch)
        if backend is not None:
            self._lend(backend, fetch)
            return
        self.waiting[fetch] = None
        self._open_more()

    def _idle_for(self, fetch: Fetcher) -> BackendConnection | None:
        """An idle connection to an address that it may go to."""
        for backend in list(self.idle):
            if backend.node.endpoint.host in fetch.addresses:
                self.idle.remove(backend)
                if not backend.closing and not backend.suspect and not backend.unread:
                    return backend
                backend.abort()
        return None

    def _lend(self, backend: BackendConnection, fetch: Fetcher) -> None:
        self.busy[backend] = None
        backend.uses += 1
        backend.relay = fetch
        backend.state = link.WAIT_RES
        fetch.assigned(backend)

    def release(self, backend: BackendConnection, keep: bool) -> None:
        """The fetch is done with it: keep it for the next one, or close it."""
        self.used_at = self.world.clock.now()
        self.busy.pop(backend, None)
        backend.relay = None
        reader = backend.reader
        if reader.leftover:
            backend.suspect = True
            self.backend_surprised(backend)
        too_many = 0 < self.most <= self.count
        if keep and reader.keep_alive and not (reader.must_close or backend.suspect or backend.closing or too_many):
            self._offer(backend)
        else:
            backend.abort()
            self._open_more()

    def _offer(self, backend: BackendConnection) -> None:
        """A connection is free: to the longest waiting that may have it, else it is idle."""
        for fetch in self.waiting:
            if backend.node.endpoint.host in fetch.addresses:
                del self.waiting[fetch]
                self._lend(backend, fetch)
                return
        backend.state = link.BORED
        backend.deadline = self.world.clock.now() + IDLE
        self.idle.append(backend)

    # -- new connections -----------------------------------------------------------------------------------------

    def _open_more(self) -> None:
        """Open a connection for each that waits, as far as there may be so many."""
        if not self.waiting:
            return
        served = set(self.opening.values())
        for fetch in [each for each in self.waiting if each not in served]:
            if 0 < self.most <= self.count:
                if not self.idle:
                    return
                self.idle.popleft().abort()  # none of those that wait may have it
            self._open(fetch)

    def _open(self, fetch: Fetcher) -> None:
        address = fetch.addresses[0]
        node = self._nodes.get(address)
        if node is None:
            if len(self._nodes) >= MOST_ADDRESSES * 4:
                self._nodes.clear()
            node = self._nodes[address] = Node(Endpoint(address, self.port), self._pool)
        backend = BackendConnection(self, node)
        self.opening[backend] = fetch
        spawn(self, self._connect(fetch, backend), f"connect reproxy {self.label}")

    async def _connect(self, fetch: Fetcher, backend: BackendConnection) -> None:
        node, connected, why = backend.node, False, ""
        tls = None
        try:
            if self.scheme == "https":
                tls = ClientLink(backend, await Targets.of(self.world).context(), self.host, None)
            protocol = cast(asyncio.Protocol, tls or backend)  # not by base class: compiled classes have no foreign bases
            async with asyncio.timeout(fetch.connect_timeout):
                await made(protocol, asyncio.get_running_loop().create_connection(lambda: protocol, node.endpoint.host, self.port))
                if tls is not None:
                    await tls.ready
            connected = True
        except (OSError, TimeoutError) as error:
            why = f"cannot connect to {node.name}: {error.strerror or error or 'too slow'}"
            self.world.counters.counts["reproxy_connect_failures"] += 1
        finally:
            if tls is not None and not connected:  # also where the process ends
                tls.abort()
            self.opening.pop(backend, None)
        if not connected:
            self._failed(fetch, node.endpoint.host, why)
        self._open_more()

    def _failed(self, fetch: Fetcher, address: str, why: str) -> None:
        """No connection to that address."""
        hopeless = not self.count
        for each in list(self.waiting) if hopeless else [fetch]:
            if each not in self.waiting:
                continue
            if address in each.addresses:
                each.addresses.remove(address)
            if not each.addresses:
                del self.waiting[each]
                each.unreachable(why)

    # -- Owner ---------------------------------------------------------------------------------------------------

    @property
    def response_limits(self) -> Limits:
        """See Owner."""
        return _LIMITS

    def buffer_size(self) -> int:
        """See Owner. A request is a few lines."""
        return 65536

    def backend_second(self) -> int:
        """See Owner."""
        return self.world.second

    def backend_made(self, backend: BackendConnection) -> None:
        """See Owner."""
        self.world.backends.add(backend)
        self.world.counters.counts["reproxy_connects"] += 1
        self.opening.pop(backend, None)
        self._offer(backend)

    def backend_closed(self, backend: BackendConnection) -> None:
        """See Owner."""
        self.world.backends.discard(backend)
        self.busy.pop(backend, None)
        with contextlib.suppress(ValueError):  # it was not idle
            self.idle.remove(backend)
        self._open_more()

    def backend_surprised(self, backend: BackendConnection) -> None:
        """See Owner."""
        self.world.counters.counts["backend_surprises"] += 1
        for other in (*self.busy, *self.idle):
            other.suspect = True

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Once a second. Whether it is of any use still."""
        for fetch in [each for each in (*self.waiting, *self.looking) if each.gives_up_at < now]:
            self.forget(fetch)
            fetch.give_up()
        self._open_more()  # the limit may be another one now
        if self.count or self.waiting or self.looking or self._looking_up:
            self.used_at = now
        return now - self.used_at < FORGOTTEN

    def leave(self, service_name: str) -> None:
        """A service is going: its fetches wait no longer."""
        for fetch in [each for each in (*self.waiting, *self.looking) if each.service_name == service_name]:
            self.forget(fetch)
            fetch.give_up()
        if not self.waiting and not self.looking:
            cancel_all(self)
            self.opening.clear()  # here, since a task that has not begun yet ends without a word
            while self.idle:
                self.idle.popleft().abort()
            self._looking_up = False  # a look-up that had not begun yet never will, and others may want one


class Targets:
    """Every Target of the process."""

    __slots__ = ("_by_key", "_context", "_pool", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self._pool = Pool("reproxy", world.changing)
        """Of no service. Addresses of targets are Nodes in it by their names only: nobody balances, checks or ejects them."""
        self._by_key: dict[tuple[str, str, int], Target] = {}
        self._context: ssl.SSLContext | None = None

    @classmethod
    def of(cls, world: World) -> "Targets":
        """Those of a process. The first who asks makes them."""
        found = world.targets
        if found is None:
            found = world.targets = cls(world)
        assert isinstance(found, Targets)
        return found

    def at(self, scheme: str, host: str, port: int) -> Target:
        """The Target of a URL."""
        found = self._by_key.get((scheme, host, port))
        if found is None:
            found = self._by_key[scheme, host, port] = Target(self.world, self._pool, scheme, host, port)
        return found

    async def context(self) -> ssl.SSLContext:
        """What connections under TLS are made with: the authorities of the system, which a thread reads. Raises: OSError."""
        if self._context is None:
            self._context = await asyncio.get_running_loop().run_in_executor(None, backend_context, None, True)
        return self._context

    def all(self) -> list[Target]:
        """Every one, by host and port."""
        return sorted(self._by_key.values(), key=lambda target: target.label)

    def tick(self, now: float) -> None:
        """Once a second, whether a service is left that asks or not."""
        for key, target in list(self._by_key.items()):
            if not target.tick(now):
                del self._by_key[key]

    def leave(self, service_name: str) -> None:
        """A service is going."""
        for target in self._by_key.values():
            target.leave(service_name)
