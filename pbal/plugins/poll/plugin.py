"""The plugin itself: recognises polls and publishes, opens the hub and its store, and survives its own replacement.

    start_http_request   path, method, CORS and size are judged; nothing is answered that needs the body
    proxy_read_request   the body is there: which queues, from which position? -> the hub, by the request's transport

A reload: quiesce() lets store calls come to rest while polls go on being parked; carry() packs who waits and what the store keeps
in this process (handover.py); adopt() parks them again under records of the new generation. What runs late in the old one (an
answer that turns out lost) reaches the new one through Hub.serving.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

from pbal.api import Exchange, Explanation, Histogram, Limit, Plugin, Service, Verdict, World, hook, resident_bytes, spawn

from . import auth, commands, cors, events, explaining, handover, longpoll, publisher, sockets
from .auth import Action, Decision, Gate, Refusal
from .cached import MemcachedStore, take_over
from .delivery import DISABLED
from .grants import Grant
from .hub import Hub
from .memcached import Server
from .memory import MemoryStore
from .names import first_of, key_for, queues_of
from .positions import BadPosition, read_token
from .settings import COUNTERS, POLL, PUBLISH, ROLES, TUNABLES, Settings
from .store import Store

SOCKETS = 64
"""The most that begin in one turn of the loop, of those that waited for what reads their frames."""


class Poll(Plugin):
    """One service's polls."""

    tunables = TUNABLES
    counters = COUNTERS
    roles = ROLES
    commands = commands.COMMANDS

    def __init__(self, service: Service, world: World) -> None:
        super().__init__(service, world)
        self.hub: Hub
        self.gate: Gate | None = None
        self.resident_at_open = 0
        self._adopted: dict[str, Any] = {}
        self._first_sockets: list[Exchange] = []
        """Those that wait for sockets.load()."""

    # -- life ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See Plugin."""
        settings = Settings(self.service)
        auth.check(settings, self.service)

    def open(self) -> None:
        """See Plugin."""
        carried, self._adopted = self._adopted, {}
        self.hub = hub = Hub(self.service, self.world, Settings(self.service), self._serving)
        self.gate = auth.gate_of(hub.settings, self.service, self.world)
        if carried:
            handover.unpack(carried, hub)
        self.resident_at_open = carried.get("resident", 0) or resident_bytes()
        hub.store = self._new_store(carried.get("store", {}))
        hub.start()
        hub.store.go_on()

    def _serving(self) -> Hub:
        """The hub of the generation in the chain."""
        plugin: Any = self.service.plugin("poll") or self
        hub: Hub = getattr(plugin, "hub", self.hub)
        return hub

    def _new_store(self, carried: dict[str, Any]) -> Store:
        """The store that poll_store names, with what another one carried."""
        hub = self.hub
        memory, doubts = carried.get("memory", {}), dict(carried.get("doubts", {}))
        if not hub.settings.store.places:
            store: Store = MemoryStore(hub, memory)
            hub.store = store
            take_over(store, hub, doubts)
            return store
        # What the memory store held is in doubt for memcached: it is delivered first, and goes there when it can.
        now = self.world.clock.now()
        doubts.update({key: ((facts[0],), now) for key, facts in memory.items() if facts[0]})
        return MemcachedStore(hub, doubts)

    def changed(self, tunable: str) -> None:
        """See Plugin."""
        if not tunable.startswith("poll_"):
            return
        hub = self.hub
        settings = Settings(self.service)
        gate = self.gate
        if tunable == "poll_key_prefix" or tunable.startswith("poll_auth"):
            self.gate = auth.gate_of(settings, self.service, self.world)
        before, hub.settings = hub.settings, settings
        hub.set_limits()
        judged = (settings.auth, settings.auth_tokens, settings.auth_audience)
        others = settings.auth.kind != "off" and judged != (before.auth, before.auth_tokens, before.auth_audience)
        if settings.prefix != before.prefix or settings.keep != before.keep or others:
            # Who waits gets the empty answer, and comes back to what the queues are now, and to who may read them.
            hub.finish_all(list(hub.lot), DISABLED)
            hub.turns.finish()
        if others and gate is not None and self.gate is not None:
            gate.replaced(self.gate)
        if settings.prefix != before.prefix and isinstance(hub.store, MemoryStore):
            hub.store.rename(len(before.prefix), settings.prefix)
        if settings.store != before.store or settings.prefix != before.prefix:
            self._replace_store()
        else:
            hub.store.changed(settings)
        if (settings.presence, settings.presence_queue, settings.store, settings.prefix) != (
            before.presence, before.presence_queue, before.store, before.prefix,
        ):  # fmt: skip
            hub.presence.reset()

    def _replace_store(self) -> None:
        """Another store, live. Who waits goes on waiting; a memory store's messages move along."""
        hub = self.hub
        before = hub.store
        hub.store = self._new_store(before.carry() if isinstance(before, MemoryStore) else {})
        if isinstance(before, MemcachedStore):
            before.retire()
        else:
            before.close()
        hub.store.go_on()

    async def quiesce(self) -> None:
        """See Plugin."""
        await self.hub.turns.rest()
        await self.hub.store.rest()

    def carry(self) -> dict[str, Any]:
        """See Plugin. One that was never opened has nothing to hand over."""
        return handover.pack(self.hub, self.resident_at_open) if hasattr(self, "hub") else {}

    def adopt(self, carried: dict[str, Any]) -> None:
        """See Plugin."""
        self._adopted = carried

    def resume(self) -> None:
        """See Plugin."""
        for reader in self.hub.lot:
            if reader.client is not None:
                reader.client.repark(reader)
        self.hub.store.go_on()

    def close(self) -> None:
        """See Plugin. Who waits is not answered: they were carried on, or service_disabled() did it."""
        hub = self.hub
        if self._serving() is hub and isinstance(hub.store, MemoryStore):
            hub.store.say_what_goes()
        hub.stop()
        hub.store.close()

    def service_disabled(self) -> None:
        """See Plugin."""
        self.hub.finish_all(list(self.hub.lot), DISABLED)

    def explain(self, exchange: Exchange) -> Explanation | None:
        """See Plugin."""
        return explaining.explain(self.hub, exchange)

    # -- being looked at -----------------------------------------------------------------------------------------

    def measured(self, name: str) -> Iterable[tuple[tuple[str, ...], float | Histogram]]:
        """See Plugin."""
        hub, service = self.hub, self.service.name
        of_service: dict[str, Callable[[], float | Histogram]] = {
            "poll_readers": lambda: hub.lot.count,
            "poll_queues": lambda: len(hub.lot.queues()),
            "poll_memory_bytes": lambda: hub.store.octets,
            "poll_delivery_seconds": lambda: hub.store_to_answer,
        }
        if name in of_service:
            return (((service,), of_service[name]()),)
        of_server: Callable[[Server, float], float | Histogram] = {
            "poll_store_seconds": lambda server, lag: server.round_trips,
            "poll_server_errors": lambda server, lag: server.errors,
            "poll_server_up": lambda server, lag: int(server.up),
            "poll_watch_lag_seconds": lambda server, lag: lag,
        }[name]
        return (((service, server.name), of_server(server, lag)) for server, lag in hub.store.servers())

    def limits(self) -> Iterable[Limit]:
        """See Plugin."""
        hub, service = self.hub, self.service.name
        settings = hub.settings
        then = "503, counted in poll_full (poll_max_parked)"
        found = [Limit("parked polls", service, hub.lot.count, settings.max_parked or None, then)]
        if isinstance(hub.store, MemoryStore):
            then = "the oldest queues go, counted in poll_evicted (poll_memory_limit)"
            found.append(Limit("poll memory bytes", service, hub.store.octets, settings.memory_limit, then))
        if hub.limits.buckets.rate:
            then = "addresses are forgotten, counted in poll_limits_forgotten"
            found.append(Limit("addresses with a rate", service, len(hub.limits.buckets), hub.limits.buckets.most, then))
        return found

    def complete(self, kind: str, word: str) -> Iterator[str]:
        """Queues that somebody waits for, and those that hold something."""
        if kind not in ("queue", "target"):
            return iter(())
        cut, start = len(self.hub.settings.prefix), word.encode("utf-8", "replace")
        keys = chain(self.hub.lot.queues(), self.hub.store.names())
        return (key[cut:].decode("utf-8", "replace") for key in keys if key.startswith(start, cut))

    # -- requests ------------------------------------------------------------------------------------------------

    @hook.start_http_request
    def recognise(self, exchange: Exchange) -> Verdict:
        settings = self.hub.settings
        place = settings.paths.first(exchange.path)
        if place == POLL:
            return self._poll_begins(exchange)
        if place == PUBLISH:
            self._look_at_credentials(exchange)
            if not publisher.allowed(self.hub, exchange):
                return Verdict.TAKEN
            exchange.body_limit = settings.max_queue
        return Verdict.PASS

    @hook.answer_preflight
    def tell_origins(self, exchange: Exchange) -> Verdict:
        settings = self.hub.settings
        place = settings.paths.first(exchange.path)
        if place == POLL:
            methods, what = b", ".join(settings.methods), "poll"
        elif place == PUBLISH:
            methods, what = publisher.METHODS, "publish"
        else:
            return Verdict.PASS
        return Verdict.TAKEN if self.hub.preflight(exchange, methods, what) else Verdict.PASS

    def _poll_begins(self, exchange: Exchange) -> Verdict:
        hub, request = self.hub, exchange.request
        settings = hub.settings
        self._look_at_credentials(exchange)
        if hub.preflight(exchange, b", ".join(settings.methods), "poll"):
            return Verdict.TAKEN
        if request.method not in settings.methods:
            hub.refuse(exchange, 405, "This path is for polls.", (b"Allow", b", ".join(settings.methods)))
            return Verdict.TAKEN
        exchange.body_limit = settings.max_body
        return Verdict.PASS

    def _look_at_credentials(self, exchange: Exchange) -> None:
        """One in the query is for nobody's eyes, and what a browser says of its user is not for every page to use."""
        cors.forget_ambient(exchange, self.hub.settings.origins)
        if self.gate is not None and exchange.request.query:
            exchange.conceal(*self.hub.settings.credentials)

    def wants_body(self, exchange: Exchange) -> bool:
        """See Plugin: polls and publishes are read whole, all else streams on."""
        return exchange.body_limit is not None

    @hook.proxy_read_request
    def take(self, exchange: Exchange) -> Verdict:
        if exchange.body_limit is None:  # not one of ours: `recognise` sets it
            return Verdict.PASS
        hub = self.hub
        settings = hub.settings
        match = settings.uri.search(exchange.path)
        if match is not None:
            if sockets.wanted(exchange) and not sockets.loaded():
                self._first_socket(exchange)
            else:
                publisher.answer_mistakes(hub, exchange, partial(self._read, exchange, match))
            return Verdict.TAKEN
        match = None if settings.publish_uri is None else settings.publish_uri.search(exchange.path)
        if match is not None:
            publisher.answer_mistakes(hub, exchange, partial(publisher.begin, hub, self.gate, exchange, match))
            return Verdict.TAKEN
        return Verdict.PASS

    def _first_socket(self, exchange: Exchange) -> None:
        """One of the first that asks for a WebSocket: what reads frames is imported in a thread, while everybody else goes on."""
        self._first_sockets.append(exchange)
        if len(self._first_sockets) == 1:
            spawn(self, self._load_sockets(), "load sockets")

    async def _load_sockets(self) -> None:
        await asyncio.to_thread(sockets.load)
        line, self._first_sockets = self._first_sockets, []
        for place, exchange in enumerate(line, 1):
            if not exchange.answered:
                serving: Any = self.service.plugin("poll") or self
                serving._read_now(exchange)
            if not place % SOCKETS:
                await asyncio.sleep(0)

    def _read_now(self, exchange: Exchange) -> None:
        """Read one that waited, perhaps for a reload: much may have changed meanwhile."""
        hub = self.hub
        match = hub.settings.uri.search(exchange.path)
        if match is None or not hub.open:
            hub.refuse(exchange, 503, "Polls are not answered here any more.", (b"Retry-After", b"1"))
        else:
            publisher.answer_mistakes(hub, exchange, partial(self._read, exchange, match))

    def _read(self, exchange: Exchange, match: re.Match[bytes]) -> None:
        """Somebody wants to read queues: which, and may it? Raises: BadName."""
        settings = self.hub.settings
        keys = queues_of(settings.sources, exchange, match, settings.prefix)
        if exchange.log is not None:
            queues = b" ".join([key[len(settings.prefix) :] for key in keys])
            exchange.note("queue", queues.decode("utf-8", "surrogateescape"))
        places = settings.stream_position_sources if events.wanted(exchange) else settings.position_sources
        position = b"" if settings.keep == "taken" else first_of(places, exchange, match)
        if self.gate is None:
            self._begin(exchange, position, keys, None)
        else:
            names = tuple(key[len(settings.prefix) :] for key in keys)
            self.gate.judge(exchange, Action.POLL, names, partial(self._judged, exchange, position))

    def _judged(self, exchange: Exchange, position: bytes, decision: Decision) -> None:
        """poll_auth has decided of who wants to read, perhaps after a reload: much may have changed meanwhile."""
        serving: Any = self.service.plugin("poll") or self
        hub: Hub = serving.hub
        if isinstance(decision, Refusal):
            hub.turn_away(exchange, decision)
        elif not hub.open:
            hub.refuse(exchange, 503, "Polls are not answered here any more.", (b"Retry-After", b"1"))
        else:
            prefix, names, grant = hub.settings.prefix, decision.names, decision.grant
            publisher.answer_mistakes(
                hub, exchange, lambda: serving._begin(exchange, position, tuple(key_for(name, prefix) for name in names), grant)
            )

    def _begin(self, exchange: Exchange, position: bytes, keys: tuple[bytes, ...], grant: Grant | None) -> None:
        """Who may read these queues does, by the transport that it asks for. Raises: BadName, BadPosition."""
        settings = self.hub.settings
        places: dict[bytes, bytes] = {}
        if position and settings.keep != "taken":
            try:
                places = read_token(position.removeprefix(b"W/").strip(b'"'), keys)
            except BadPosition:
                if not settings.bad_position_is_none:
                    self.hub.counts["poll_bad_positions"] += 1
                    raise
        begin = sockets.begin if sockets.wanted(exchange) else events.begin if events.wanted(exchange) else longpoll.begin
        begin(self.hub, exchange, keys, places, grant)
