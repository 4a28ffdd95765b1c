"""Active checks of nodes: is there somebody, and does he answer as he should?

    due -> under way -> Health.checked(why, or "")  -> due again, check_interval later, give or take a tenth

A check is a connection of its own, made as the service that uses the pool makes its connections (TLS, Unix sockets), and closed after.
Nothing is read beyond the head of the answer. What a result means is model/health.py's.

One timer serves all: it wakes when the first check is due, begins those that are due, at most MOST at a time, and sleeps until the next.
The tick of the process finds the pools: those that a running service uses and whose `check` is not off. A node in maintenance is not
checked, nor is a pool that nobody uses; what was found there is forgotten, and the first check of a node counts at once.
"""

import asyncio
import random
from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from pbal.http1.events import BadResponse, ResponseHead
from pbal.http1.reader import Limits, ResponseReader
from pbal.model.errors import ConfigError
from pbal.model.health import MAINT
from pbal.model.pool import Node, Pool
from pbal.net.proxy_protocol import encode_local
from pbal.net.reaching import reach
from pbal.net.tasks import cancel_all, spawn
from pbal.net.tls import ClientLink
from pbal.roles.proxy.role import ReverseProxy
from pbal.roles.proxy.terms import Terms

if TYPE_CHECKING:
    from pbal.model.world import World

MOST: Final = 64
"""Checks at a time; the others wait their turn."""
PAUSE: Final = 0.02
"""Seconds from one look at what is due to the next, at least."""
JITTER: Final = 0.1
LONGEST: Final = 16384
"""Octets of an answer that are read, 1xx included."""
_LIMITS: Final = Limits(max_head=LONGEST)


class Checker:
    """All checks of the process."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._pools: dict[Pool, Terms] = {}
        """The pools that are checked, each with the terms of the first service that uses it."""
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[Node, asyncio.Task[None]] = {}

    def tick(self, now: float) -> None:
        """Once a second: see which pools are to be checked."""
        former, self._pools = self._pools, self._used()
        for pool in former.keys() - self._pools.keys():
            for node in pool.nodes:
                node.check_due = 0.0
                if not node.check_by:
                    node.unchecked()
        for pool in self._pools:
            latest = now + cast(float, pool.values["check_interval"]) * (1 + JITTER)
            for node in pool.nodes:
                node.check_due = min(node.check_due, latest)  # where the interval has become shorter
        if self._pools:
            self._arm(now)

    def _used(self) -> dict[Pool, Terms]:
        found: dict[Pool, Terms] = {}
        for service in self._world.services.values():
            handler = service.handler
            if isinstance(handler, ReverseProxy) and service.opened:
                for name in service.pools():
                    pool = self._world.pools.get(name.lower())
                    if pool is not None and pool.values["check"] != "off":
                        found.setdefault(pool, handler.terms)
        return found

    def _arm(self, due: float) -> None:
        """Wake at `due` (clock time), if nothing is due before."""
        now = self._world.clock.now()
        delay = max(PAUSE, due - now)
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay, self._begin_due)

    def _begin_due(self) -> None:
        """Begin what is due, and sleep until something is."""
        self._timer = None
        now = self._world.clock.now()
        following = inf
        for pool, terms in self._pools.items():
            for node in pool.nodes:
                if node in self._running or node.order.word == MAINT:
                    continue
                if node.check_due > now:
                    following = min(following, node.check_due)
                elif len(self._running) < MOST:
                    self._begin(pool, terms, node)
        if following < inf:
            self._arm(following)

    def _begin(self, pool: Pool, terms: Terms, node: Node) -> asyncio.Task[None]:
        task = self._running[node] = spawn(self, self._check(pool, terms, node), f"check {pool.name} {node.name}")
        return task

    async def check_now(self, pool: Pool, nodes: Iterable[Node]) -> None:
        """Check nodes of a pool, and wait for what comes of it. Raises: ConfigError where there is nothing to check by."""
        if pool.values["check"] == "off":
            raise ConfigError(f"pool '{pool.name}' has no checks: SET {pool.name}.check = http", about=pool.name)
        terms = self._used().get(pool)
        if terms is None:
            raise ConfigError(f"no enabled service uses pool '{pool.name}', and nothing says how its nodes are spoken to", about=pool.name)
        for node in nodes:
            while len(self._running) >= MOST and node not in self._running:
                await asyncio.wait(set(self._running.values()), return_when=asyncio.FIRST_COMPLETED)
            if node.order.word != MAINT and node not in self._running:
                self._begin(pool, terms, node)
        waiting = {self._running[node] for node in nodes if node in self._running}
        if waiting:
            await asyncio.wait(waiting)

    async def _check(self, pool: Pool, terms: Terms, node: Node) -> None:
        values = pool.values
        try:
            why = await self._outcome(pool, terms, node)
        finally:
            del self._running[node]
        now = self._world.clock.now()
        if not node.removed and node.order.word != MAINT and values["check"] != "off":
            node.checked(now, why)
        node.check_due = now + cast(float, values["check_interval"]) * random.uniform(1 - JITTER, 1 + JITTER)
        if pool in self._pools:
            self._arm(now if len(self._running) == MOST - 1 else node.check_due)

    async def _outcome(self, pool: Pool, terms: Terms, node: Node) -> str:
        """Why a check was bad, "" if it was good."""
        limit = cast(float, pool.values["check_timeout"])
        probe = Probe(pool, node)
        try:
            async with asyncio.timeout(limit):
                return await self._probe(pool, terms, node, probe)
        except TimeoutError as error:
            if error.errno:
                return f"cannot connect: {error.strerror}"
            return f"{'no answer' if probe.transport is not None else 'no connection'} within {limit:g} s"
        except ConnectionRefusedError:
            return "connection refused"
        except OSError as error:
            return f"cannot connect: {error.strerror or error}"
        finally:
            probe.close()

    async def _probe(self, pool: Pool, terms: Terms, node: Node, probe: "Probe") -> str:
        """Connect as the service does, and hear what comes. Raises: OSError."""
        endpoint = node.endpoint
        link = None
        first = encode_local(terms.send_proxy) if terms.send_proxy else b""
        if terms.tls is not None:
            name = terms.service.values["ssl_backend_name"] or ("localhost" if endpoint.path else endpoint.host)
            link = ClientLink(probe, terms.tls, name, None, first)
        else:
            probe.first = first
        protocol = cast(asyncio.Protocol, link or probe)
        try:
            port = cast(int, pool.values["check_port"])
            await reach(self._world.names, self._world.clock.now(), node, protocol, cast(float, pool.values["check_timeout"]), port)
            if link is not None:
                await link.ready
            return await probe.outcome
        finally:
            if link is not None:
                link.abort()

    def close(self) -> None:
        """No more checks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pools = {}
        cancel_all(self)


class Probe:
    """One connection: says what there is to say, and hears whether the answer is good. Under TLS it is inside."""

    def __init__(self, pool: Pool, node: Node) -> None:
        values = pool.values
        self.transport: asyncio.Transport | None = None
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it is bad, "" if it is good."""
        self._statuses = cast(tuple[range, ...], values["check_status"])
        self._reader = ResponseReader(_LIMITS)
        self._heard = 0
        self._request = b""
        self.first = b""
        """What goes before everything: a PROXY header."""
        if values["check"] == "http":
            method = cast(str, values["check_method"]).encode()
            host = (cast(str, values["check_host"]) or node.authority).encode()
            fields = b"Host: %b\r\nUser-Agent: pbal-check\r\nAccept: */*\r\nConnection: close\r\n" % host
            self._request = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, cast(str, values["check_path"]).encode(), fields)
            self._reader.expect(method)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, the handshake of TLS included."""
        self.transport = cast(asyncio.Transport, transport)
        if self.first:
            self.transport.write(self.first)
        if self._request:
            self.transport.write(self._request)
        else:
            self._is("")

    def data_received(self, data: bytes) -> None:
        """Look for the head of the answer."""
        if self.outcome.done():
            return
        self._heard += len(data)
        self._reader.feed(data)
        self._reader.begin_turn()
        try:
            head = self._reader.next()
            while isinstance(head, ResponseHead) and head.status < 200 and head.status != 101:
                head = self._reader.next()
        except BadResponse as error:
            self._is(error.reason)
            return
        if isinstance(head, ResponseHead):
            self._is("" if any(head.status in some for some in self._statuses) else f"status {head.status}")
        elif self._heard > LONGEST or self._reader.tired:
            self._is("more octets than an answer's head has")

    def eof_received(self) -> bool:
        """The node closes."""
        self._is("it closed the connection without an answer")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._is("it closed the connection without an answer" if exc is None else f"the connection broke: {exc}")

    def pause_writing(self) -> None:
        """What is written is a few lines."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    def _is(self, why: str) -> None:
        if not self.outcome.done():
            self.outcome.set_result(why)

    def close(self) -> None:
        """Whatever came, it is over."""
        if self.transport is not None:
            self.transport.abort()
        self.outcome.cancel()
