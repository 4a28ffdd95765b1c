"""Who may poll and publish: poll_auth.

    off       no Gate is made: nobody is asked for anything
    jwt       a token says it, and tokens.py says whether it is good. Decided at once
    request   the application says it: a sub-request, decided when a node has answered

A Gate gets a request and the queues that it names, and gives one Decision to who asked: Admitted, with the queues and the Grant, or
a Refusal to answer with. 401 is for no credential and for one that is not good, 403 for a good one that may not do this, 503 for an
application that gives no answer: what cannot be decided is refused.

**What is remembered** lies in a bounded table (Remembered) by a keyed hash of the credential, never under the credential itself. It
goes into no log line and into no parked poll either.

**Sub-requests.** Equal questions share one: `_asked` holds who waits for it. MOST_ASKED are under way at a time, the others wait
in line, so that ten thousand clients that come back together are no flood for the application. A client that left meanwhile is
passed over; a question whose clients have all left is not asked.
"""

import asyncio
import json
import re
from abc import ABCMeta, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pbal.api import ConfigError, Exchange, IllegalField, NoAnswer, NodeAnswer, Remembered, Service, World

from .grants import Action, Admitted, Decision, Grant, Patterns, Refusal, challenge, decide, patterns_in, unauthorized
from .names import MOST_QUEUES, BadName, Source, cookie_values, key_for, query_values
from .settings import Settings

MOST_REMEMBERED = 10_000
"""Credentials whose decision is remembered; about 5 MB."""
LONGEST_REMEMBERED = 300.0
"""Seconds for which a token is not verified again, if it does not end before."""
MOST_ASKED = 64
"""Sub-requests under way for one service."""
SLICE = 128
"""Requests that are told in one turn of the loop."""

Then = Callable[[Decision], None]
_JSON_TYPE = re.compile(rb"application/(?:[A-Za-z0-9.!#$&^_-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE)
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)


class Gate(metaclass=ABCMeta):
    """Who decides."""

    @abstractmethod
    def judge(self, exchange: Exchange, action: Action, names: tuple[bytes, ...], then: Then) -> None:
        """Decide whether a request may do `action` with queues (names without poll_key_prefix). Calls `then` once, now or later.

        It is not called for a client that left meanwhile.
        """

    def replaced(self, by: "Gate") -> None:
        """Other rules hold from now on: who still waits for a decision is judged by them."""
        return  # where nobody waits


def gate_of(settings: Settings, service: Service, world: World) -> Gate | None:
    """The Gate that a service's tunables ask for; None for poll_auth = off. Raises: ConfigError."""
    check(settings, service)
    if settings.auth.kind == "jwt":
        return TokenGate(settings, service, world)
    if settings.auth.kind == "request":
        return RequestGate(settings, service, world)
    return None


def check(settings: Settings, service: Service) -> None:
    """Look whether gate_of() could be. Raises: ConfigError."""
    choice = settings.auth
    if choice.kind == "jwt":
        from .tokens import read_keys  # 60 ms, which a pbal without tokens need not spend

        read_keys(Path(choice.argument))
    elif choice.kind == "request" and service.role != "reverse_proxy":
        raise ConfigError(
            f"poll_auth = request asks a node of the service's pool, and '{service.name}' is a {service.role}, which has none",
            about="poll_auth",
        )


# -- jwt ---------------------------------------------------------------------------------------------------------


class TokenGate(Gate):
    """poll_auth = jwt."""

    def __init__(self, settings: Settings, service: Service, world: World) -> None:
        from . import tokens

        self._tokens = tokens
        self._sources = settings.auth_tokens
        self._audience = settings.auth_audience
        self._world = world
        self._service = service.name
        self._file = tokens.KeyFile(Path(settings.auth.argument), self._broken)
        self._ledger: Remembered[Grant | Refusal] = Remembered(MOST_REMEMBERED)

    def _broken(self, why: str) -> None:
        self._world.counters.counts["poll_auth_key_errors"] += 1
        self._world.log_limited(
            f"poll_auth key {self._service}",
            "service %(service)s: %(reason)s",
            {"event": "poll_auth_key", "service": str(self._service), "reason": why},
        )

    def judge(self, exchange: Exchange, action: Action, names: tuple[bytes, ...], then: Then) -> None:
        """See Gate."""
        then(self._decision(exchange, action, names))

    def _decision(self, exchange: Exchange, action: Action, names: tuple[bytes, ...]) -> Decision:
        token = token_of(exchange, self._sources)
        if not token:
            return unauthorized()
        world = self._world
        now = world.clock.now()
        if self._file.look(now):
            self._ledger.clear()
        key = digest(world, token)
        grant = self._ledger.get(key, now)
        if not isinstance(grant, Grant):
            epoch = world.clock.epoch()
            try:
                grant = self._tokens.grant_of(self._file.keys, token, self._audience, epoch)
            except self._tokens.BadToken as error:
                return unauthorized(str(error))
            lasts = LONGEST_REMEMBERED if grant.expires is None else min(LONGEST_REMEMBERED, grant.expires - epoch)
            self._ledger.put(key, grant, now + lasts, now)
        return decide(grant, action, names)


def token_of(exchange: Exchange, sources: tuple[Source, ...]) -> bytes:
    """The token of a request, from the first source that gives one; b"" without."""
    for source in sources:
        found = _from(exchange, source)
        if found:
            return found
    return b""


def _from(exchange: Exchange, source: Source) -> bytes:
    request, name = exchange.request, source.argument.encode()
    if source.kind == "query":
        return next(query_values(request.query, name), b"")
    if source.kind == "cookie":
        return next(cookie_values(request.fields.get(b"cookie", b""), name), b"")
    value = request.fields.get(name.lower(), b"")
    if name.lower() == b"authorization":  # RFC 6750 section 2.1; other schemes are other people's
        match = _BEARER.fullmatch(value)
        return b"" if match is None else match[1]
    return value


def digest(world: World, *parts: bytes) -> bytes:
    """What a credential is remembered under. Keyed, with what this process alone knows."""
    made = blake2b(digest_size=16, key=world.identity)
    for part in parts:
        made.update(b"%d:" % len(part))
        made.update(part)
    return made.digest()


# -- request -----------------------------------------------------------------------------------------------------


class _Waiter:
    """A request that waits for a decision."""

    __slots__ = ("action", "exchange", "names", "then")

    def __init__(self, exchange: Exchange, action: Action, names: tuple[bytes, ...], then: Then) -> None:
        self.exchange, self.action, self.names, self.then = exchange, action, names, then

    def tell(self, decided: Grant | Refusal) -> None:
        """The end of the wait."""
        if not self.exchange.answered:
            self.then(decided if isinstance(decided, Refusal) else decide(decided, self.action, self.names))


class RequestGate(Gate):
    """poll_auth = request."""

    def __init__(self, settings: Settings, service: Service, world: World) -> None:
        self._settings = settings
        self._service = service
        self._world = world
        self._counts = world.counters.counts
        self._ledger: Remembered[Grant | Refusal] = Remembered(MOST_REMEMBERED)
        self._asked: dict[bytes, list[_Waiter]] = {}
        """By question: who waits for its answer, also while it stands in line."""
        self._line: deque[tuple[bytes, bytes]] = deque()
        """Questions that wait until others are answered: their key, and that of their credential."""
        self._under_way = 0
        self._heir: Gate | None = None

    def replaced(self, by: Gate) -> None:
        """See Gate."""
        self._heir = by

    def judge(self, exchange: Exchange, action: Action, names: tuple[bytes, ...], then: Then) -> None:
        """See Gate."""
        waiter = _Waiter(exchange, action, names, then)
        credential = self._credential(exchange)
        question = digest(self._world, credential, action.value.encode(), *names)
        now = self._world.clock.now()
        known = self._ledger.get(credential, now) or self._ledger.get(question, now)
        if known is not None:
            waiter.tell(known)
            return
        waiting = self._asked.get(question)
        if waiting is not None:
            waiting.append(waiter)
            return
        self._asked[question] = [waiter]
        self._line.append((question, credential))
        self._go_on()

    def _credential(self, exchange: Exchange) -> bytes:
        """All of a request that the application may judge by, but for its queues."""
        fields = exchange.request.fields
        said = [_from(exchange, source) for source in self._settings.auth_tokens]
        return digest(
            self._world,
            fields.get(b"authorization", b""),
            fields.get(b"cookie", b""),
            exchange.request.host,
            exchange.client_address,
            *said,
        )

    def _go_on(self) -> None:
        """Ask what stands in line, as long as few questions are under way."""
        while self._line and self._under_way < MOST_ASKED:
            question, credential = self._line.popleft()
            waiting = [waiter for waiter in self._asked[question] if not waiter.exchange.answered]
            if not waiting:
                del self._asked[question]
                continue
            self._asked[question] = waiting
            self._ask(waiting[0], question, credential)

    def _ask(self, waiter: _Waiter, question: bytes, credential: bytes) -> None:
        settings = self._settings
        uri = settings.auth.argument.encode()
        fields = _fields(waiter, settings.auth_tokens)
        tell = partial(self._answered, question, credential, waiter.action, waiter.names)
        try:
            self._service.ask(uri, fields, tell, settings.auth_timeout)
        except (ConfigError, IllegalField) as error:
            self._tell(self._asked.pop(question), self._no_decision(str(error)))
            return
        self._under_way += 1
        self._counts["poll_auth_requests"] += 1

    def _answered(
        self, question: bytes, credential: bytes, action: Action, names: tuple[bytes, ...], answer: NodeAnswer | NoAnswer
    ) -> None:
        self._under_way -= 1
        decided: Grant | Refusal
        try:
            decided, of_all = _read(answer, action, names, self._settings.prefix)
        except _NoDecision as error:
            decided = self._no_decision(str(error))
        else:
            decided = self._remember(credential if of_all else question, decided)
        waiting = self._asked.pop(question)
        self._go_on()
        self._tell(waiting, decided)

    def _remember(self, key: bytes, decided: Grant | Refusal) -> Grant | Refusal:
        now, lasts = self._world.clock.now(), self._settings.auth_ttl
        if isinstance(decided, Grant) and decided.expires is not None:
            left = decided.expires - self._world.clock.epoch()
            if left <= 0:
                return unauthorized("it has expired")
            lasts = min(lasts, left)
        self._ledger.put(key, decided, now + lasts, now)
        return decided

    def _no_decision(self, why: str) -> Refusal:
        self._world.log_limited(
            f"poll_auth {self._service.name}",
            "service %(service)s: poll_auth = %(auth)s decides nothing: %(reason)s",
            {"event": "poll_auth_failed", "service": self._service.name, "auth": str(self._settings.auth), "reason": why},
        )
        self._counts["poll_auth_failed"] += 1
        return Refusal(503, "It cannot be found out who may do this.", ((b"Retry-After", b"1"),))

    def _tell(self, waiting: list[_Waiter], decided: Grant | Refusal) -> None:
        for waiter in waiting[:SLICE]:
            if self._heir is None:
                waiter.tell(decided)
            elif not waiter.exchange.answered:
                self._heir.judge(waiter.exchange, waiter.action, waiter.names, waiter.then)
        if len(waiting) > SLICE:
            asyncio.get_running_loop().call_soon(self._tell, waiting[SLICE:], decided)


def _fields(waiter: _Waiter, sources: tuple[Source, ...]) -> list[tuple[bytes, bytes]]:
    """What the application is told of a request: its credentials, what it asked for, and whose it is."""
    names = {b"authorization": b"Authorization", b"cookie": b"Cookie"}
    names |= {source.argument.lower().encode(): source.argument.encode() for source in sources if source.kind == "header"}
    return [
        (b"Accept", b"application/json"),
        (b"X-Poll-Action", waiter.action.value.encode()),
        (b"X-Poll-Queues", b", ".join(quote_from_bytes(name, safe="").encode() for name in waiter.names)),
        *waiter.exchange.asked_about(names.values()),
    ]


class _NoDecision(ValueError):
    """An answer that decides nothing. The text is for the log."""


def _read(answer: NodeAnswer | NoAnswer, action: Action, names: tuple[bytes, ...], prefix: bytes) -> tuple[Grant | Refusal, bool]:
    """What an answer says, and whether it says it of all queues. Raises: _NoDecision."""
    if isinstance(answer, NoAnswer):
        raise _NoDecision(answer.reason)
    status = answer.status
    if status == 401:
        said = answer.fields.get(b"www-authenticate")
        return Refusal(
            401, "The application refuses this credential.", (challenge() if said is None else (b"WWW-Authenticate", said),)
        ), False
    if status == 403:
        return Refusal(403, "The application does not allow this."), False
    if not 200 <= status < 300:
        raise _NoDecision(f"the status is {status}")
    expires: float | None = None
    lists: tuple[Patterns, Patterns] | None = None
    if _JSON_TYPE.fullmatch(answer.fields.get(b"content-type", b"")) and answer.body:
        lists, expires = _read_json(answer.body)
    listed = answer.fields.get(b"poll-queues")
    if listed is not None and action is Action.POLL:
        queues = _queues(listed, prefix)
        return Grant(Patterns.of(queues), Patterns(()), expires, queues), False
    if lists is not None:
        return Grant(*lists, expires), True
    asked = Patterns.of(names)
    return (Grant(asked, Patterns(()), expires) if action is Action.POLL else Grant(Patterns(()), asked, expires)), False


def _read_json(body: bytes) -> tuple[tuple[Patterns, Patterns] | None, float | None]:
    """The lists of {"poll": [...], "publish": [...], "expires": SECONDS}, and the end. No list: none is said. Raises: _NoDecision."""
    try:
        said: object = json.loads(body)
    except (ValueError, RecursionError):
        raise _NoDecision("the answer calls itself JSON and is none") from None
    if not isinstance(said, dict):
        raise _NoDecision("the answer is JSON and no object")
    expires = said.get("expires")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires < 1e12):
        raise _NoDecision("expires is not a time in seconds")
    ends = None if expires is None else float(expires)
    if "poll" not in said and "publish" not in said:
        return None, ends
    try:
        return (patterns_in(said.get("poll")), patterns_in(said.get("publish"))), ends
    except ValueError as error:
        raise _NoDecision(f"poll or publish is {error}") from None


def _queues(listed: bytes, prefix: bytes) -> tuple[bytes, ...]:
    """The names of Poll-Queues, each once. Raises: _NoDecision."""
    names = tuple(dict.fromkeys(unquote_to_bytes(part.strip(b" \t")) for part in listed.split(b",") if part.strip(b" \t")))
    if len(names) > MOST_QUEUES:
        raise _NoDecision(f"Poll-Queues names {len(names)} queues; at most {MOST_QUEUES} can be waited for")
    for name in names:
        try:
            key_for(name, prefix)
        except BadName as error:
            raise _NoDecision(f"Poll-Queues: {error}") from None
    return names


__all__ = ["Action", "Admitted", "Decision", "Gate", "Refusal", "check", "gate_of"]
