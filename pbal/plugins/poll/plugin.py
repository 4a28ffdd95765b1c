"""The plugin itself: recognises polls and publishes, parks, answers, and survives its own replacement.

    start_http_request   path, method, CORS and size are judged; nothing is answered that needs the body
    proxy_read_request   the body is there: which queues? -> answered at once, or parked

Where messages go: from the store to exactly one poll of their queue (poll_duplicate = all: to every one), in order. What
cannot be written to a client, because it left between the take and the write or broke before the socket took all
octets, goes back in front of the queue.

With the memory store everything happens in the turn of the loop that brought the request. With memcached a Courier does
the asking, and hands over what it took.

A reload: quiesce() lets store calls come to rest while polls go on being parked; carry() is the list of parked polls and
the memory store's content as plain values; adopt() parks them again under records of the new generation. What runs
late in the old one (an answer that turns out unsent) reaches the new one through `_now_serving`.
"""

import asyncio
import json
import logging
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from pbal.api import Exchange, Histogram, Plugin, Service, Verdict, World, hook, resident_bytes, spawn

from . import auth, commands, cors
from .auth import Action, Admitted, Decision, Gate, Refusal
from .courier import Courier, Doubt
from .formats import render
from .framing import trim, wrap
from .limits import Limits
from .lot import QUARTER, Lot, Parked
from .memory import MemoryStore
from .names import BadName, key_for, queues_of
from .settings import COUNTERS, ROLES, TUNABLES, Settings
from .store import StoreError
from .turns import Turns

log = logging.getLogger("pbal.poll")

Queues = list[tuple[bytes, bytes]]
"""(store key, value) pairs."""
Rendered = tuple[int, bytes, bytes]
"""Status, media type and body of an answer."""
NO_STORE = (b"Cache-Control", b"no-store")
EXPIRY_LOOKS = 30.0
"""Seconds between two looks for memory queues past their ttl."""


class Poll(Plugin):
    """One service's polls."""

    tunables = TUNABLES
    counters = COUNTERS
    roles = ROLES
    commands = commands.COMMANDS

    def __init__(self, service: Service, world: World) -> None:
        super().__init__(service, world)
        self.lot = Lot(self._gone)
        self._turns = Turns()
        self.memory: MemoryStore | None = None
        self.courier: Courier | None = None
        self.store_to_answer = Histogram()
        self.settings: Settings
        self.gate: Gate | None = None
        self.limits = Limits(self.lot, world.clock.now, self._forgotten)
        self._stored_at: dict[bytes, float] = {}
        self._tick_timer: asyncio.TimerHandle | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._adopted: dict[bytes, tuple[bytes, float]] | None = None
        self._adopted_doubts: dict[bytes, Doubt] = {}
        self._open = False
        self.resident_at_open = 0

    # -- life ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See Plugin."""
        auth.check(Settings(self.service), self.service)

    def open(self) -> None:
        """See Plugin."""
        self.settings = Settings(self.service)
        self.gate = auth.gate_of(self.settings, self.service, self.world)
        self._set_limits()
        self._open = True
        self.resident_at_open = self.resident_at_open or resident_bytes()
        self._open_store()
        if self.lot.count:
            self._schedule_tick()
        if self.courier is not None:
            self.courier.go_on()

    def _open_store(self) -> None:
        if self.settings.store.endpoints:
            self.courier = Courier(self.settings, self.lot, self.counts, self.world.clock.now, self.deliver, self._wake_serving)
            self.courier.doubts, self._adopted_doubts = self._adopted_doubts, {}
            content, self._adopted = self._adopted, None
            if content:
                spawn(self, self._move(content), "poll move to memcached")
        else:
            self.memory = MemoryStore(self.world.clock.now, self.settings.ttl, self._adopted)
            self._adopted = None
            self._schedule_expiry()

    async def _move(self, content: dict[bytes, tuple[bytes, float]]) -> None:
        """The store was changed to memcached: take what the memory held there."""
        for key, (value, _) in content.items():
            await self._append_to_memcached(key, value)

    def changed(self, tunable: str) -> None:
        """See Plugin."""
        if not tunable.startswith("poll_"):
            return
        settings = Settings(self.service)
        if tunable == "poll_key_prefix" or tunable.startswith("poll_auth"):
            self.gate = auth.gate_of(settings, self.service, self.world)
        before, self.settings = self.settings, settings
        self._set_limits()
        if self.settings.prefix != before.prefix:
            self._rename(len(before.prefix))
        if self.settings.store != before.store or self.settings.prefix != before.prefix:
            self._replace_store()
        elif self.courier is not None:
            self.courier.changed(self.settings)
        elif self.memory is not None:
            self.memory.ttl = self.settings.ttl

    def _set_limits(self) -> None:
        settings = self.settings
        self.limits.set(settings.park_rate, settings.park_burst, settings.max_by_address, settings.max_by_queue)

    def _forgotten(self) -> None:
        self.counts["poll_limits_forgotten"] += 1
        self.world.log_limited("poll_limits", "poll_park_rate: more addresses than pbal can watch; one that was busy was forgotten")

    def _rename(self, skip: int) -> None:
        """Another key prefix: parked polls get the empty answer and come back, a memory store's queues are renamed."""
        self._answer_all_empty(list(self.lot))
        self._turns.finish()
        if self.memory is not None:
            content, prefix = self.memory.content, self.settings.prefix
            renamed = {prefix + key[skip:]: held for key, held in content.items()}
            content.clear()
            content.update(renamed)

    def _replace_store(self) -> None:
        """Another store, live. Polls stay parked; a memory store's messages move along."""
        courier, memory = self.courier, self.memory
        self.courier = self.memory = None
        if memory is not None:
            self._adopted = memory.content
        self._open_store()
        if courier is not None:
            spawn(self, self._retire(courier), "poll retire store")
        if self.memory is not None:
            self.deliver_waiting()
        elif self.courier is not None and self.lot.count:
            self.courier.go_on()

    async def _retire(self, courier: Courier) -> None:
        await courier.rest(for_publishes=True)
        serving = self._now_serving()
        if serving.courier is not courier:
            serving._take_over(courier.doubts)
        courier.close()

    def _take_over(self, doubts: dict[bytes, Doubt]) -> None:
        """Octets that another store left in doubt are this one's to deliver."""
        if self.courier is not None:
            self.courier.inherit(doubts)
        elif self.memory is not None:
            for key, (pieces, _) in doubts.items():
                self._return_to_memory(key, b"".join(pieces))
                self.wake(key)
        doubts.clear()

    async def quiesce(self) -> None:
        """See Plugin."""
        await self._turns.rest()
        if self.courier is not None:
            await self.courier.rest()

    def carry(self) -> dict[str, Any]:
        """See Plugin."""
        sweeps = 0 if self.courier is None else self.courier.sweeps
        return {
            "polls": [(p.client, p.all_keys(), p.deadline, p.id, p.since, p.first_sweep - sweeps, p.origin, p.address) for p in self.lot],
            "next_id": self.lot.next_id,
            "resident": self.resident_at_open,
            "memory": None if self.memory is None else self.memory.content,
            "doubts": {} if self.courier is None else dict(self.courier.doubts),
            "histogram": (self.store_to_answer.buckets, self.store_to_answer.count),
        }

    def adopt(self, carried: dict[str, Any]) -> None:
        """See Plugin."""
        for client, keys, quarter, number, since, first_sweep, origin, address in carried["polls"]:
            poll = self.lot.park(client, keys, (quarter - 1) / QUARTER, since, origin, number)
            poll.first_sweep, poll.address = first_sweep, address
            client.repark(poll)
        self.lot.next_id = carried["next_id"]
        self.resident_at_open = carried.get("resident", 0)
        self._adopted = carried["memory"]
        self._adopted_doubts = carried.get("doubts", {})
        buckets, count = carried["histogram"]
        self.store_to_answer.buckets, self.store_to_answer.count = list(buckets), count

    def resume(self) -> None:
        """See Plugin."""
        for poll in self.lot:
            if poll.client is not None:
                poll.client.repark(poll)
        if self.courier is not None:
            self.courier.go_on()

    def close(self) -> None:
        """See Plugin. Parked polls are not answered: they were carried on, or service_disabled() did it."""
        self._open = False
        if self._now_serving() is self:
            self._turns.finish()
        self.lot.forget()
        for timer in (self._tick_timer, self._expiry_timer):
            if timer is not None:
                timer.cancel()
        if self.courier is not None:
            self.courier.stop_watching()
            if self._now_serving() is not self:
                self.courier.doubts.clear()  # carried on; what becomes doubtful from here, _retire hands over
            if self.courier.busy:
                spawn(self, self._retire(self.courier), "poll retire store")
            else:
                self.courier.close()

    def service_disabled(self) -> None:
        """See Plugin."""
        self._answer_all_empty(list(self.lot))

    def _answer_all_empty(self, polls: list[Parked]) -> None:
        self._turns.each(polls, lambda poll: self._answer_empty(poll, "poll_empty"))

    def _now_serving(self) -> "Poll":
        """The generation in the chain: this one, or the one that replaced it."""
        return self.service.plugin("poll") or self  # type: ignore[return-value]

    def _wake_serving(self, key: bytes) -> None:
        courier = self._now_serving().courier
        if courier is not None:
            courier.wake(key)

    # -- requests ------------------------------------------------------------------------------------------------

    @hook.start_http_request
    def recognise(self, exchange: Exchange) -> Verdict:
        settings = self.settings
        path = exchange.path
        if settings.uri.search(path):
            return self._poll_begins(exchange)
        if settings.publish_uri is not None and settings.publish_uri.search(path):
            return self._publish_begins(exchange)
        return Verdict.PASS

    def _poll_begins(self, exchange: Exchange) -> Verdict:
        settings, request = self.settings, exchange.request
        if request.method == b"OPTIONS" and settings.origins and b"origin" in request.fields:
            origin = cors.origin_of(exchange, settings.origins)
            if origin is None:
                self._refuse(exchange, 403, "Pages of this origin may not poll.", (b"Vary", b"Origin"))
            else:
                exchange.respond(204, cors.preflight(exchange, origin, b", ".join(settings.methods)))
            return Verdict.TAKEN
        if request.method not in settings.methods:
            self._refuse(exchange, 405, "This path is for polls.", (b"Allow", b", ".join(settings.methods)))
            return Verdict.TAKEN
        exchange.body_limit = settings.max_body
        return Verdict.PASS

    def _publish_begins(self, exchange: Exchange) -> Verdict:
        if exchange.method != b"POST":
            self._refuse(exchange, 405, "This path takes only POST.", (b"Allow", b"POST"))
            return Verdict.TAKEN
        if exchange.client_address not in self.settings.publish_from:
            self._refuse(exchange, 403, "Your address may not publish.")
            return Verdict.TAKEN
        exchange.body_limit = self.settings.max_queue
        return Verdict.PASS

    def wants_body(self, exchange: Exchange) -> bool:
        """See Plugin: polls and publishes are read whole, all else streams on."""
        return exchange.body_limit is not None

    @hook.proxy_read_request
    def take(self, exchange: Exchange) -> Verdict:
        if exchange.body_limit is None:  # not one of ours: `recognise` sets it
            return Verdict.PASS
        settings = self.settings
        match = settings.uri.search(exchange.path)
        try:
            if match is not None:
                self._poll(exchange, match)
            elif settings.publish_uri is not None and (match := settings.publish_uri.search(exchange.path)):
                self._publish(exchange, match)
            else:
                return Verdict.PASS
        except BadName as error:
            self._refuse(exchange, 400, str(error))
        return Verdict.TAKEN

    def _refuse(self, exchange: Exchange, status: int, why: str, *fields: tuple[bytes, bytes]) -> None:
        """An error, which a script of another origin may read too if it may poll."""
        origin = cors.origin_of(exchange, self.settings.origins)
        exchange.respond(status, [*fields, NO_STORE, *cors.fields_for(origin)], f"{why}\n".encode())

    # -- polls ---------------------------------------------------------------------------------------------------

    def _poll(self, exchange: Exchange, match: re.Match[bytes]) -> None:
        """Find out what a poll waits for, and whether it may. Raises: BadName."""
        settings = self.settings
        keys = queues_of(settings.sources, exchange, match, settings.prefix)
        if self.gate is None:
            self._may_poll(exchange, keys)
        else:
            names = tuple(key[len(settings.prefix) :] for key in keys)
            self.gate.judge(exchange, Action.POLL, names, partial(self._poll_judged, exchange))

    def _poll_judged(self, exchange: Exchange, decision: Decision) -> None:
        """poll_auth has decided of a poll, perhaps after a reload."""
        serving = self._now_serving()
        if isinstance(decision, Admitted) and (keys := serving._keys_admitted(exchange, decision)):
            serving._may_poll(exchange, keys, decision.grant.expires)
        elif isinstance(decision, Refusal):
            serving._turn_away(exchange, decision)

    def _keys_admitted(self, exchange: Exchange, admitted: Admitted) -> tuple[bytes, ...]:
        """The keys with which a request goes on; none where it was answered: much may have changed while the application was asked."""
        if not self._open:
            self._refuse(exchange, 503, "Polls are not answered here any more.", (b"Retry-After", b"1"))
            return ()
        try:
            return tuple(key_for(name, self.settings.prefix) for name in admitted.names)
        except BadName as error:
            self._refuse(exchange, 400, str(error))
            return ()

    def _turn_away(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer with what auth.py or limits.py say."""
        if refusal.status in (401, 403):
            self.counts["poll_auth_refused"] += 1
        elif refusal.status == 429:
            self.counts["poll_limited"] += 1
            self.world.log_limited("poll_limited", "service %s: a poll was answered 429: %s", self.service.name, refusal.why)
        self._refuse(exchange, refusal.status, refusal.why, *refusal.fields)

    def _may_poll(self, exchange: Exchange, keys: tuple[bytes, ...], expires: float | None = None) -> None:
        """Answer a poll, or park it."""
        settings, lot = self.settings, self.lot
        origin = cors.origin_of(exchange, settings.origins)
        if self.memory is not None:
            held = [(key, value) for key in keys if (value := self.memory.take(key))]
            if held:
                if not self._send(exchange, origin, held, put_back=True):
                    for key, value in held:
                        self._return_to_memory(key, value)
                return
        if settings.duplicate == "oldest" and any(lot.has(key) for key in keys):
            self.counts["poll_refused"] += 1
            self._refuse(exchange, 409, "A poll for this queue is parked already.")
            return
        joined = () if settings.duplicate == "newest" else keys  # else it takes the place of another
        too_many = self.limits.refusal(exchange.client_address, joined)
        if too_many is not None:
            self._turn_away(exchange, too_many)
            return
        if settings.duplicate == "newest":
            for key in keys:
                for earlier in lot.waiting(key):  # of a lot that was `all` before there may be many
                    self._answer_empty(earlier, "poll_superseded")
        if settings.max_parked and lot.count >= settings.max_parked:
            self.counts["poll_full"] += 1
            self.world.log_limited("poll_full", "poll_max_parked: a poll was answered 503")
            self._refuse(exchange, 503, "Too many polls are parked.", (b"Retry-After", b"5"))
            return
        if self.world.draining:
            self._send(exchange, origin, [])
            self.counts["poll_empty"] += 1
            return
        self._park(exchange, keys, origin, expires)

    def _park(self, exchange: Exchange, keys: tuple[bytes, ...], origin: bytes | None, expires: float | None = None) -> None:
        world = self.world
        # Earlier by up to a tenth, each its own time, so that clients do not come back in step.
        ends = world.clock.now() + self.settings.timeout * (1 - random.random() / 10)
        if expires is not None:  # nobody waits longer than the credential is good for
            ends = min(ends, world.clock.now() + expires - world.clock.epoch())
        poll = self.lot.park(None, keys, ends, world.second, origin)
        if exchange.client_address != exchange.stream.peer:
            poll.address = exchange.client_address
        poll.client = exchange.park(poll)
        self.limits.entered(poll)
        self.counts["poll_parked"] += 1
        self.counts["poll_parked_ever"] += 1
        if self._tick_timer is None:
            self._schedule_tick()
        if self.courier is not None:
            poll.first_sweep = self.courier.sweeps
            self.courier.look(keys)

    def _out(self, poll: Parked) -> bool:
        """Take a poll out of the lot; False if it is out already."""
        if self.lot.remove(poll):
            self.limits.left(poll)
            self.counts["poll_parked"] -= 1
            return True
        return False

    def _gone(self, poll: Parked) -> None:
        """The client of a parked poll left. The lot has taken it out."""
        self.limits.left(poll)
        self.counts["poll_parked"] -= 1
        self.counts["poll_gone"] += 1

    def _answer_empty(self, poll: Parked, counter: str) -> None:
        if self._out(poll):
            self.counts[counter] += 1
            self._send(poll, poll.origin, [])

    def answer_by_hand(self, polls: list[Parked], text: str | None) -> None:
        """`poll answer`."""
        if text is None:
            self._answer_all_empty(polls)
            return
        message = wrap(text.encode(), self.settings.framing)

        def answer(poll: Parked) -> None:
            if self._out(poll):
                self._send(poll, poll.origin, [(poll.all_keys()[0], message)])

        self._turns.each(polls, answer)

    def kick(self, polls: list[Parked]) -> None:
        """`poll kick`."""
        self._turns.each(polls, self._kick_one)

    def _kick_one(self, poll: Parked) -> None:
        if self._out(poll):
            self.counts["poll_kicked"] += 1
            if poll.client is not None:
                poll.client.kick(poll)

    # -- delivering ----------------------------------------------------------------------------------------------

    def deliver(self, taken: Queues) -> Queues:
        """Hand taken values to the polls that wait for them; those nobody took come back."""
        serving = self._now_serving()
        if serving is not self:  # the take was in flight for so long that a reload went on without it
            return serving.deliver(taken)
        left: Queues = []
        if self.settings.duplicate == "all":
            return self._deliver_to_all(taken)
        answers: dict[Parked, Queues] = {}
        for key, value in taken:
            first = self.lot.first(key)
            if first is not None:
                answers.setdefault(first, []).append((key, value))
            else:
                left.append((key, value))
        for poll, queues in answers.items():
            if not self._out(poll) or not self._send(poll, poll.origin, queues, put_back=True):
                left += queues
        return left

    def _deliver_to_all(self, taken: Queues) -> Queues:
        """Every poll of a queue gets every message. What has no poll comes back at once; what reached nobody goes back in front."""
        lot, values = self.lot, dict(taken)
        waiting = dict.fromkeys(poll for key in values for poll in lot.waiting(key))
        if not waiting:
            return taken
        alone = len(waiting) == 1
        reached: set[bytes] = set()
        rendered: dict[tuple[bytes, ...], Rendered] = {}

        def answer(poll: Parked) -> None:
            queues = [(key, values[key]) for key in poll.all_keys() if key in values]
            keys = tuple(key for key, _ in queues)
            ready = rendered.get(keys)
            if ready is None:
                ready = rendered[keys] = self._render(queues)
            if self._out(poll) and self._send(poll, poll.origin, queues, alone, ready):
                reached.update(keys)

        def unreached() -> Queues:
            return [(key, value) for key, value in taken if key not in reached]

        if self._turns.each(list(waiting), answer, lambda: self._put_back(unreached()), frozenset(values)):
            return unreached()
        return []

    def _put_back(self, queues: Queues) -> None:
        """Messages that reached nobody go back in front."""
        serving = self._now_serving()
        if serving.courier is not None:
            serving.courier.put_back(queues)
            return
        for key, value in queues:
            serving._return_to_memory(key, value)
            serving.wake(key)

    def deliver_waiting(self) -> None:
        """Memory store: hand out what is there for parked polls."""
        if self.memory is not None:
            for key in self.lot.queues():
                self.wake(key)

    def wake(self, key: bytes) -> None:
        """Look at the store for a queue now."""
        if self.courier is not None:
            self.courier.wake(key)
        elif self.memory is not None and self.lot.has(key):
            value = self.memory.take(key)
            if value:
                for left_key, left in self.deliver([(key, value)]):
                    self._return_to_memory(left_key, left)

    def _return_to_memory(self, key: bytes, value: bytes) -> None:
        assert self.memory is not None
        self.counts["poll_put_back"] += 1
        self.memory.put_back(key, value)
        self._limit_memory(key)

    def _lost(self, queues: Queues) -> None:
        """The connection broke before the socket took an answer: its messages go back in front."""
        self.counts["poll_answered"] -= 1
        self.counts["poll_gone"] += 1
        self._put_back(queues)

    def _render(self, queues: Queues) -> Rendered:
        """Status, media type and body of the answer that holds these."""
        settings = self.settings
        prefix = len(settings.prefix)
        named = [(key[prefix:], self._shortened(key, value)) for key, value in queues]
        status, media_type, body, good = render(settings.format, named, settings.framing)
        if not good:
            self.counts["poll_misframed"] += 1
        return status, media_type, body

    def _send(
        self, to: "Exchange | Parked", origin: bytes | None, queues: Queues, put_back: bool = False, ready: Rendered | None = None
    ) -> bool:
        """Write an answer; False if the client has gone (its messages are the caller's again).

        With `put_back` they also go back if the connection breaks before the socket took them.
        """
        status, media_type, body = ready or self._render(queues)
        fields = [NO_STORE]
        if status != 204:
            fields.append((b"Content-Type", media_type))
        if origin is not None:
            fields += cors.fields_for(origin)
        on_lost: Callable[[], None] | None = partial(self._lost, queues) if put_back and queues else None
        if not to.respond(status, fields, body, on_lost):
            return False
        if queues:
            self.counts["poll_answered"] += 1
        for key, _ in queues:
            stored = self._stored_at.pop(key, None)
            if stored is not None:
                self.store_to_answer.add(self.world.clock.now() - stored)
        return True

    def _shortened(self, key: bytes, value: bytes) -> bytes:
        settings = self.settings
        if len(value) <= settings.max_queue:
            return value
        kept, dropped = trim(value, settings.max_queue, settings.framing)
        self._evicted(key, dropped)
        return kept

    def _evicted(self, key: bytes, dropped: int) -> None:
        if dropped:
            self.counts["poll_evicted"] += dropped
            self.world.log_limited("poll_evicted", "queue %r is too long: %d old messages dropped", key.decode("utf-8", "replace"), dropped)

    # -- publishing ----------------------------------------------------------------------------------------------

    def _publish(self, exchange: Exchange, match: re.Match[bytes]) -> None:
        """Find out which queue a message is for, and whether it may go there. Raises: BadName."""
        settings = self.settings
        name = unquote_to_bytes(match.groupdict().get(settings.publish_group) or b"")
        key = key_for(name, settings.prefix)
        if self.gate is None:
            self._may_publish(exchange, key)
        else:
            self.gate.judge(exchange, Action.PUBLISH, (name,), partial(self._publish_judged, exchange))

    def _publish_judged(self, exchange: Exchange, decision: Decision) -> None:
        """poll_auth has decided of a publish, perhaps after a reload."""
        serving = self._now_serving()
        if isinstance(decision, Admitted) and (keys := serving._keys_admitted(exchange, decision)):
            serving._may_publish(exchange, keys[0])
        elif isinstance(decision, Refusal):
            serving._turn_away(exchange, decision)

    def _may_publish(self, exchange: Exchange, key: bytes) -> None:
        """Store a message and wake its poll."""
        message = exchange.read_body()
        if not message:
            self._refuse(exchange, 400, "A message needs at least one byte.")
            return
        if self.memory is not None:
            exchange.respond(202, _JSON, self.publish_to_memory(key, message))
        else:
            assert self.courier is not None
            self.courier.run_publish(self._publish_to_memcached(exchange, key, message))

    def publish_to_memory(self, key: bytes, message: bytes) -> bytes:
        """Store, wake, and the answer for the publisher."""
        assert self.memory is not None
        parked = self.lot.number(key)
        if parked:
            self._note_time(key)
        self.memory.append(key, wrap(message, self.settings.framing))
        self._limit_memory(key)
        self.counts["poll_published"] += 1
        self.wake(key)
        return self._receipt(key, message, parked)

    async def publish_by_hand(self, key: bytes, message: bytes) -> bytes:
        """`poll publish`. Raises: StoreError."""
        if self.memory is not None:
            return self.publish_to_memory(key, message)
        parked = self.lot.number(key)
        await self._append_to_memcached(key, wrap(message, self.settings.framing))
        self._wake_serving(key)
        return self._receipt(key, message, parked)

    async def _publish_to_memcached(self, exchange: Exchange, key: bytes, message: bytes) -> None:
        try:
            receipt = await self.publish_by_hand(key, message)
        except StoreError:
            self.counts["poll_publish_failed"] += 1
            self._refuse(exchange, 503, "The store does not answer.", (b"Retry-After", b"1"))
        else:
            exchange.respond(202, _JSON, receipt)

    async def _append_to_memcached(self, key: bytes, data: bytes) -> None:
        # Through this generation's own store, even when a reload came between: it is closed only when this is done.
        courier, serving = self.courier, self._now_serving()
        if courier is None:
            raise StoreError("the store was changed")
        if serving.lot.has(key):
            serving._note_time(key)
        settings = self.settings
        dropped = await courier.publish(key, data, lambda value: trim(value, settings.max_queue, settings.framing))
        self._evicted(key, dropped)
        self.counts["poll_published"] += 1

    def _note_time(self, key: bytes) -> None:
        if len(self._stored_at) > 10000:  # takes that never came: their times are worth nothing
            self._stored_at.clear()
        self._stored_at[key] = self.world.clock.now()

    def _receipt(self, key: bytes, message: bytes, parked: int) -> bytes:
        name = json.dumps(key[len(self.settings.prefix) :].decode("utf-8", "replace"))
        return f'{{"queue": {name}, "bytes": {len(message)}, "parked": {parked}}}\n'.encode()

    def _limit_memory(self, key: bytes) -> None:
        """Keep poll_max_queue and poll_memory_limit."""
        memory, settings = self.memory, self.settings
        assert memory is not None
        value = memory.peek(key)
        if len(value) > settings.max_queue:
            kept, dropped = trim(value, settings.max_queue, settings.framing)
            memory.replace(key, kept)
            self._evicted(key, dropped)
        gone = memory.make_room(settings.memory_limit)
        if gone:
            self.counts["poll_evicted"] += gone
            self.world.log_limited("poll_memory", "poll_memory_limit: %d queues dropped", gone)
            memory.evicted.clear()

    # -- time ----------------------------------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        self._tick_timer = asyncio.get_running_loop().call_later(1 / QUARTER, self._tick)

    def _tick(self) -> None:
        """Answer polls whose time is over. Runs only while somebody is parked."""
        self._tick_timer = None
        self.expire(self.world.clock.now())
        if self.lot.count and self._open:
            self._schedule_tick()

    def expire(self, now: float) -> None:
        """Give their empty answer to polls whose time is over."""
        if not self._turns.busy:
            self._answer_all_empty(self.lot.ended(now))

    def _schedule_expiry(self) -> None:
        self._expiry_timer = asyncio.get_running_loop().call_later(EXPIRY_LOOKS, self._expire_queues)

    def _expire_queues(self) -> None:
        self._expiry_timer = None
        if self.memory is not None and self._open:
            self.counts["poll_expired_queues"] += self.memory.expire()
            self._schedule_expiry()


_JSON = [(b"Content-Type", b"application/json"), NO_STORE]
