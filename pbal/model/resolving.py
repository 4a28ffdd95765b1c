"""The addresses of nodes that are known by name, found off the loop and kept.

    unknown    never looked up with success; who wants to connect waits for the lookup that is under way, or is told why the last one failed
    known      the last good answer, which stays whatever later lookups say

A name is looked up when a node of it is there, and again after its pool's resolve_interval, give or take a tenth, so that a thousand names
do not ask at once. After a failure it is looked up again soon, each time a little later. No connection looks up a name by itself, and
nothing waits for DNS but a connection to a name that is still unknown: neither start nor POOL ADD.

Lookups are getaddrinfo, which knows /etc/hosts and whatever the system asks. It may hang for half a minute, so each runs in a thread of
its own, MOST at a time, that nobody waits for at the end: those of an executor would be joined.
What a name's addresses are used for is not known here: net/reaching.py takes them in turn.
"""

import asyncio
import errno
import logging
import random
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Final, cast

from pbal.model.clock import Clock
from pbal.model.limited import LimitedLog
from pbal.model.pool import Node, Pool

log = logging.getLogger("pbal.names")

MOST: Final = 8
"""Lookups at a time."""
SOONEST: Final = 1.0
"""Seconds after the first failure until the next lookup; twice as long after each further one, up to resolve_interval."""
ADDRESS_PENALTY: Final = 10.0
"""Seconds for which an address that could not be reached comes after the others of its name."""


def look_up(host: str) -> tuple[str, ...]:
    """The addresses of a name, in the order in which the system would try them (RFC 6724). May take seconds. Raises: OSError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is too long
        raise OSError(errno.EINVAL, str(error)) from None
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


class Name:
    """A name and what is known of it. Times are clock times."""

    __slots__ = (
        "addresses", "due", "failed", "failures", "good_at", "host", "interval", "looking", "turn", "unreachable",
    )  # fmt: skip

    def __init__(self, host: str) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        """The last good answer."""
        self.good_at = 0.0
        """When it came."""
        self.failed = ""
        """Why the last lookup failed; "" if it did not."""
        self.failures = 0
        """Lookups that failed since the last good one."""
        self.interval = 0.0
        self.due = 0.0
        self.looking: asyncio.Future[None] | None = None
        """Done when the lookup that is under way, or waits for its turn, has ended."""
        self.turn = 0
        self.unreachable: dict[str, float] = {}
        """Addresses that could not be reached, and until when others are preferred."""

    def in_turn(self, now: float) -> list[str]:
        """Its addresses, each time beginning with another; those that could not be reached a moment ago come last."""
        self.turn += 1
        at = self.turn % len(self.addresses)
        found = [*self.addresses[at:], *self.addresses[:at]]
        if self.unreachable:
            self.unreachable = {address: until for address, until in self.unreachable.items() if until > now and address in found}
            found.sort(key=lambda address: address in self.unreachable)
        return found


class Names:
    """The names of all nodes of a process."""

    def __init__(self, clock: Clock, counts: dict[str, int], limited: LimitedLog, pools: Mapping[str, Pool]) -> None:
        self._clock = clock
        self._counts = counts
        self._limited = limited
        self._pools = pools
        self.known: dict[str, Name] = {}
        """By host, in lower case."""
        self.moved: Callable[[Name], None] = lambda name: None
        """Told of a name whose addresses changed: connections to those that went are to end."""
        self._waiting: deque[Name] = deque()
        self._running = 0

    def tick(self, now: float) -> None:
        """Once a second: begin the lookups that are due, and forget the names that no node has."""
        wanted: dict[str, float] = {}
        for pool in self._pools.values():
            for node in pool.named:
                host, interval = node.endpoint.host, cast(float, pool.values["resolve_interval"]) or inf
                wanted[host] = min(wanted.get(host, inf), interval)
        for host in self.known.keys() - wanted.keys():
            if self.known[host].looking is None:
                del self.known[host]
        for host, interval in wanted.items():
            name = self._name(host)
            if interval < name.interval and not name.failed:
                name.due = min(name.due, now + interval)
            name.interval = interval
            if name.due <= now:
                self._ask(name)

    async def addresses(self, node: Node) -> Name:
        """The name of a node, with at least one address; waits where it is still unknown. Raises: OSError if none can be found."""
        name = self._name(node.endpoint.host)
        if not name.addresses:
            if name.due <= self._clock.now():
                self._ask(name)
            if name.looking is not None:
                await asyncio.shield(name.looking)
            if not name.addresses:
                raise OSError(errno.EHOSTUNREACH, f"no address of {name.host} is known: {name.failed}")
        return name

    def described(self, node: Node) -> str:
        """Where a node is that is known by name: " at 10.0.0.1" or " at no known address"; "" of any other."""
        if not node.endpoint.is_name:
            return ""
        name = self.known.get(node.endpoint.host)
        return f" at {' '.join(name.addresses)}" if name is not None and name.addresses else " at no known address"

    def _name(self, host: str) -> Name:
        name = self.known.get(host)
        if name is None:
            name = self.known[host] = Name(host)
        return name

    # -- lookups ---------------------------------------------------------------------------------------------------

    def _ask(self, name: Name) -> None:
        """Look it up when there is room for one more; once is enough."""
        if name.looking is None:
            name.looking = asyncio.get_running_loop().create_future()
            self._waiting.append(name)
            self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._running < MOST:
            name = self._waiting.popleft()
            self._running += 1
            try:
                threading.Thread(target=self._find, args=(loop, name), name=f"look up {name.host}", daemon=True).start()
            except RuntimeError as error:  # the system gives no thread
                loop.call_soon(self._found, name, (), str(error))

    def _find(self, loop: asyncio.AbstractEventLoop, name: Name) -> None:
        """In its thread."""
        addresses: tuple[str, ...] = ()
        why = ""
        try:
            addresses = look_up(name.host)
        except OSError as error:
            why = error.strerror or str(error)
        with suppress(RuntimeError):  # the loop was closed meanwhile, and nobody waits
            loop.call_soon_threadsafe(self._found, name, addresses, why or ("" if addresses else "it has no address"))

    def _found(self, name: Name, addresses: tuple[str, ...], why: str) -> None:
        now = self._clock.now()
        self._running -= 1
        self._counts["name_lookups"] += 1
        if why:
            self._failed(name, why, now)
        else:
            self._answered(name, addresses, now)
        looking, name.looking = name.looking, None
        if looking is not None and not looking.done():
            looking.set_result(None)
        self._begin()

    def _failed(self, name: Name, why: str, now: float) -> None:
        name.failed = why
        name.failures += 1
        self._counts["name_lookup_failures"] += 1
        pause = min(name.interval or inf, SOONEST * 2 ** min(name.failures - 1, 10))
        name.due = now + pause * random.uniform(0.9, 1.1)
        kept = f"; {', '.join(name.addresses)} stays in use" if name.addresses else ""
        self._limited.warn(
            f"name {name.host}",
            "cannot find the address of %(host)s: %(reason)s%(kept)s",
            {"event": "lookup_failed", "host": name.host, "reason": why, "kept": kept},
        )
        if name.failures == 1:  # and not every time: something else may go wrong with the node, too
            for pool in self._pools.values():
                for node in pool.named:
                    if node.endpoint.host == name.host:
                        node.failed(now, f"cannot find its address: {why}{kept}")

    def _answered(self, name: Name, addresses: tuple[str, ...], now: float) -> None:
        before = name.addresses
        name.failed, name.failures = "", 0
        name.good_at = now
        name.due = now + name.interval * random.uniform(0.9, 1.1)
        name.addresses = addresses
        if set(before) != set(addresses):
            self._counts["name_changes"] += bool(before)
            log.info("%(host)s is at %(addresses)s", {"event": "name_found", "host": name.host, "addresses": ", ".join(addresses)})
            self.moved(name)
