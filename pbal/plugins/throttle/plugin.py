"""The hooks of throttle: who is refused, who waits, and how who waited goes on.

A request that is counted has a ticket until it ends:

    COUNTED    it is served, or will be judged when its body has come
    ASKED      taken; memcached is asked for what others know of the client
    HELD       taken; it waits, on the heap of those that do, under the one timer of the service
    PASSED     it has waited: its hooks run again, and this one lets it pass

A body would be lost while a request waits at its head, so one with a body waits when the body has come (read_first).

Over a RELOAD the tickets go along, with records and heap: who waits goes on waiting.
"""

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import ceil
from typing import Any, Final

from pbal.api import (
    OK,
    CommandError,
    Exchange,
    Explanation,
    Kind,
    Limit,
    Plugin,
    Reply,
    Searches,
    TookTooLong,
    Verdict,
    holder,
    hook,
)

from .records import BANNED, MOST, Record, Records, Terms
from .settings import COUNTERS, ROLES, TUNABLES
from .shared import Seen, Shared

MOST_HELD: Final = 10_000
"""Requests of a service that wait. More would fill the memory with connections."""
COUNTED, ASKED, HELD, PASSED = "counted", "asked", "held", "passed"
_LISTS: Final = {"whitelist": "whitelist_file", "blacklist": "blacklist_file"}
_ABOUT: Final = frozenset({"memcached_servers", "memcached_async_clients", "instance_name"})
_MOST_STALE: Final = 1000


async def throttle_reload(session: Any, what: str) -> Reply:
    """Read a list of the current service again: WHITELIST or BLACKLIST; or both, with CONFIG.

    If a file cannot be read or has a mistake in it, the list stays as it is.
    Source: Perlbal manual, THROTTLE RELOAD. differs: CONFIG reads both lists; what SET says holds at once.
    """
    instance: Throttle = session.on_service("throttle")
    names = [_LISTS[what.lower()]] if what.lower() in _LISTS else list(_LISTS.values()) if what.lower() == "config" else []
    if not names:
        message = f"expected config, whitelist or blacklist, found '{what}'"
        raise CommandError(message, "what", kind=Kind.BAD_VALUE, candidates=("config", *_LISTS))
    await instance.world.readings.again(instance.service, names)
    session.on_service("throttle").check()  # it may have been reloaded meanwhile
    return OK


@dataclass(slots=True)
class Ticket:
    """One request."""

    who: bytes
    stage: str = COUNTED
    judged: bool = False
    """Whether `delay` says what becomes of it."""
    delay: float = 0.0
    """Seconds that it is to wait; less than 0: it is banned."""


class Throttle(Plugin):
    """What one service knows of its clients."""

    roles = ROLES
    tunables = TUNABLES
    counters = COUNTERS
    commands = (throttle_reload,)
    after = ("accesscontrol",)
    guards = True

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.lists: dict[str, Any] = {}
        """Networks by tunable; None where there is no list."""
        self.records = Records(self._forgot)
        self.tickets: dict[Exchange, Ticket] = {}
        self.running: dict[bytes, int] = {}
        """Requests by client."""
        self.heap: list[tuple[float, int, Exchange]] = []
        """Those that are held, and some that have gone since."""
        self.held = 0
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._shared: Shared | None = None
        self._terms = Terms.of(service)
        self._closed = False

    # -- life ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.lists = {name: self.service.reading(name) for name in _LISTS.values()}
        self._terms = Terms.of(self.service)

    def open(self) -> None:
        self.changed("memcached_servers")
        self._set_timer()
        for exchange, ticket in list(self.tickets.items()):
            if ticket.stage == ASKED:
                self._ask(exchange, ticket)

    def changed(self, tunable: str) -> None:
        if tunable in _LISTS.values():
            self.check()
        self._terms = Terms.of(self.service)
        if tunable in _ABOUT:
            asked = [(exchange, ticket) for exchange, ticket in self.tickets.items() if ticket.stage == ASKED]
            if self._shared is not None:
                self._shared.close()
            values, servers = self.service, self.service["memcached_servers"]
            self._shared = (
                Shared(servers, values["instance_name"], values["memcached_async_clients"], self._store_failed) if servers else None
            )
            for exchange, ticket in asked:
                self._ask(exchange, ticket)

    def carry(self) -> dict[str, Any]:
        tickets = {exchange: (ticket.who, ticket.stage, ticket.judged, ticket.delay) for exchange, ticket in self.tickets.items()}
        known = [(who, each.last, each.violations, each.lapses, each.banned) for who, each in self.records.known.items()]
        return {"tickets": tickets, "known": known, "heap": list(self.heap), "running": dict(self.running), "held": self.held}

    def adopt(self, carried: dict[str, Any]) -> None:
        self.tickets = {exchange: Ticket(*said) for exchange, said in carried["tickets"].items()}
        self.records.known = {who: Record(*said) for who, *said in carried["known"]}
        self.heap, self.running, self.held = carried["heap"], carried["running"], carried["held"]
        self._numbers = count(max((number for _, number, _ in self.heap), default=0) + 1)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._shared is not None:
            self._shared.close()
        if any(plugin is self for _, plugin in self.service.plugins):  # else another generation has them, or one that never served
            self.service_disabled()

    def service_disabled(self) -> None:
        for exchange, ticket in list(self.tickets.items()):
            if ticket.stage in (ASKED, HELD):  # nobody has to wait any more: it is served, or told that the service is disabled
                self.held -= ticket.stage == HELD
                self._go_on(exchange, ticket)

    # -- requests ------------------------------------------------------------------------------------------------

    @hook.start_http_request
    def arrive(self, exchange: Exchange) -> Verdict:
        ticket = self.tickets.get(exchange)
        if ticket is not None:  # it has waited, or its body has come
            return self._take(exchange, ticket) if ticket.stage == COUNTED else Verdict.PASS
        address = exchange.client_address
        white, black = self.lists["whitelist_file"], self.lists["blacklist_file"]
        if white is not None and white.first(address) >= 0:
            self._tell("whitelisted", exchange)
            return Verdict.PASS
        who = holder(address)
        ban = self.records.banned(who, exchange.started)
        if ban > 0 and self._refuse(exchange, 403, "banned") is Verdict.TAKEN:
            return Verdict.TAKEN
        if ban < 0:
            self._tell("unban", exchange)
        listed = black is not None and black.first(address) >= 0
        if listed and self.service["blacklist_action"] == "deny":
            return self._refuse(exchange, 403, "blacklisted")
        most = self.service["max_concurrent"]
        if most and self.running.get(who, 0) >= most and self._refuse(exchange, 429, "concurrent") is Verdict.TAKEN:
            return Verdict.TAKEN
        if listed:
            self._tell("blacklisted", exchange)
        return self._admit(exchange, who, listed or self.service["default_action"] == "throttle")

    def _admit(self, exchange: Exchange, who: bytes, throttled: bool) -> Verdict:
        """Count a request, and judge it if it is of those that are throttled."""
        ticket = self.tickets[exchange] = Ticket(who)
        self.running[who] = self.running.get(who, 0) + 1
        if not throttled or not self._concerned(exchange):
            ticket.stage = PASSED
            return Verdict.PASS
        if self._shared is None:
            self._judge(ticket, exchange.started, None)
        if not exchange.body_complete and (ticket.delay > 0 or self._shared is not None):
            exchange.read_first()  # it is judged, or waits, when its body has come
            return Verdict.TAKEN
        return self._take(exchange, ticket)

    @hook.end
    def gone(self, exchange: Exchange) -> None:
        ticket = self.tickets.pop(exchange, None)
        if ticket is None:
            return
        if ticket.stage == HELD:
            self.held -= 1
            if len(self.heap) > 2 * self.held + _MOST_STALE:
                self.heap = [each for each in self.heap if each[2] in self.tickets]
                heapq.heapify(self.heap)
        left = self.running[ticket.who] - 1
        if left:
            self.running[ticket.who] = left
        else:
            del self.running[ticket.who]

    def _concerned(self, exchange: Exchange) -> bool:
        path, method = self.service["path_regex"], self.service["method_regex"]
        query = exchange.request.query
        more = b"?" + query if query else b""
        try:
            if method is not None and Searches([method]).first(exchange.method) < 0:
                return False
            if path is None:
                return True
            searches = Searches([path])
            return bool(exchange.by_path(lambda plain: searches.first(plain + more) >= 0))
        except TookTooLong:  # who makes it so is to be slowed down
            self.counts["regex_timeouts"] += 1
            return True

    def _judge(self, ticket: Ticket, now: float, elsewhere: tuple[float, int] | None) -> None:
        terms = self._terms
        if self.service["log_only"]:
            terms = Terms(terms.threshold, terms.first, terms.most, 0, 0.0)
        ticket.judged, ticket.delay = True, self.records.request(ticket.who, now, terms, elsewhere)

    def _take(self, exchange: Exchange, ticket: Ticket) -> Verdict:
        """Ask others, refuse, or let it wait."""
        if not ticket.judged and self._shared is not None:
            ticket.stage = ASKED
            self._ask(exchange, ticket)
            return Verdict.TAKEN
        if not ticket.judged:
            self._judge(ticket, exchange.started, None)
        delay = ticket.delay
        if delay == BANNED:
            self.counts["throttle_bans"] += 1
            self._tell("ban", exchange)
            return self._refuse(exchange, 403, "banned")
        if not delay:
            ticket.stage = PASSED
            return Verdict.PASS
        self._tell("throttled", exchange)
        if self.service["log_only"]:
            self.counts["throttle_only_logged"] += 1
            ticket.stage = PASSED
            return Verdict.PASS
        longest = self.service["taken_timeout"]
        if (longest and delay >= longest) or self.held >= MOST_HELD:
            return self._refuse(exchange, 429, "throttled", delay)
        self.counts["throttle_delayed"] += 1
        ticket.stage = HELD
        self.held += 1
        heapq.heappush(self.heap, (self.world.clock.now() + delay, next(self._numbers), exchange))
        if self.heap[0][2] is exchange:
            self._set_timer()
        return Verdict.TAKEN

    def _refuse(self, exchange: Exchange, status: int, event: str, wait: float = 0.0) -> Verdict:
        """403, or 429; PASS with log_only."""
        self._tell(event, exchange)
        if self.service["log_only"]:
            self.counts["throttle_only_logged"] += 1
            return Verdict.PASS
        if status == 403:
            self.counts["throttle_denied"] += 1
            exchange.error(403, b"Forbidden.\n")
        else:
            self.counts["throttle_refused"] += 1
            text = b"Too many requests at once.\n" if event == "concurrent" else b"Too many requests: try again later.\n"
            exchange.error(429, text, [(b"Retry-After", b"%d" % max(1, ceil(wait)))])
        return Verdict.TAKEN

    # -- who waits -----------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self.heap and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self.heap[0][0] - self.world.clock.now()), self._due)

    def _due(self) -> None:
        """Some have waited: at most a hundred of them in a turn of the loop."""
        now = self.world.clock.now()
        for _ in range(100):
            if not self.heap or self.heap[0][0] > now:
                break
            _, _, exchange = heapq.heappop(self.heap)
            ticket = self.tickets.get(exchange)
            if ticket is not None and ticket.stage == HELD:
                self.held -= 1
                self._go_on(exchange, ticket)
        self._set_timer()

    def _go_on(self, exchange: Exchange, ticket: Ticket) -> None:
        ticket.stage = PASSED
        exchange.go_on()

    # -- what others know ----------------------------------------------------------------------------------------

    def _ask(self, exchange: Exchange, ticket: Ticket) -> None:
        if self._shared is None:  # it was, a moment ago
            self._told(exchange, ticket, None)
            return
        self._shared.lasts = self._terms.threshold + self._terms.most
        self._shared.ask(ticket.who, partial(self._told, exchange, ticket))

    def _told(self, exchange: Exchange, ticket: Ticket, seen: Seen | None) -> Seen | None:
        """What others know of a client: judge its request. What is to be written."""
        if ticket.stage != ASKED or exchange.answered or self._closed:
            return None
        clock = self.world.clock
        now, epoch = clock.now(), clock.epoch()
        self._judge(ticket, now, None if seen is None else (now - max(0.0, epoch - seen[0]), seen[1]))
        record = self.records.known[ticket.who]
        if self._take(exchange, ticket) is Verdict.PASS:
            self._go_on(exchange, ticket)
        return epoch, record.violations

    def _store_failed(self, server: str, why: str) -> None:
        self.counts["throttle_store_errors"] += 1
        fields = {"event": "throttle_store", "service": self.service.name, "server": server, "reason": why}
        self.world.log_limited(f"throttle {server}", "service %(service)s: throttle: memcached %(server)s: %(reason)s", fields)

    # -- being looked at -----------------------------------------------------------------------------------------

    def _forgot(self) -> None:
        self.counts["throttle_forgotten"] += 1

    def _tell(self, event: str, exchange: Exchange) -> None:
        wanted = self.service["log_events"]
        if "none" in wanted or not ("all" in wanted or event in wanted):
            return
        client = exchange.client_address.decode("ascii", "replace")
        fields = {"event": f"throttle_{event}", "service": self.service.name, "client": client, "what": event}
        self.world.log_limited(f"throttle {self.service.name} {event}", "service %(service)s: %(client)s: %(what)s", fields)

    def limits(self) -> Iterable[Limit]:
        name = self.service.name
        then = "who was seen longest ago is forgotten, counted in throttle_forgotten"
        return (
            Limit("throttled clients", name, len(self.records.known), MOST, then),
            Limit("delayed requests", name, self.held, MOST_HELD, "429, counted in throttle_refused"),
        )

    def explain(self, exchange: Exchange) -> Explanation | None:
        address = exchange.client_address
        white, black = self.lists["whitelist_file"], self.lists["blacklist_file"]
        if white is not None and white.first(address) >= 0:
            return None
        if self.records.is_banned(holder(address), self.world.clock.now()):
            return Explanation(["403: it is banned"], takes=not self.service["log_only"])
        if black is not None and black.first(address) >= 0 and self.service["blacklist_action"] == "deny":
            return Explanation(["403: it is in blacklist_file"], takes=not self.service["log_only"])
        if not self._concerned(exchange):
            return None
        return Explanation(["a client that asks too often waits, or is refused"])
