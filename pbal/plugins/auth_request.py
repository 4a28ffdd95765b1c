r"""auth_request: the application decides of each request whether it may pass.

    LOAD auth_request
    CREATE SERVICE site
      SET role              = reverse_proxy
      SET pool              = app
      SET auth_request_uri  = /auth
      SET auth_request_path = ^/private(/|$)
      SET auth_request_copy = X-User
      SET plugins           = auth_request

pbal asks a node of the service's pool: GET /auth, with the fields of auth_request_by, and X-Original-URI, X-Original-Method,
X-Forwarded-For and X-Forwarded-Proto. A 2xx lets the request pass: it gets the fields of auth_request_copy from that answer, and never from
the client. 401 and 403 are the client's answer. Anything else, or none in time, is answered 503.

An answer is remembered for auth_request_ttl: for the same client, method, host, path and query, with the same fields. Requests that wait
for one answer ask once. A request with a body is asked for when its body has come. Polls, streams and upgrades are asked for, too.
"""

from functools import partial
from hashlib import blake2b
from typing import Any, Final

from pbal.api import (
    DURATION,
    REGEX,
    WORDS,
    ConfigError,
    Counter,
    Exchange,
    Explanation,
    IllegalField,
    NoAnswer,
    NodeAnswer,
    Plugin,
    Tunable,
    Type,
    Verdict,
    hook,
)  # fmt: skip

MOST_REMEMBERED: Final = 10_000
MOST_ASKED: Final = 1_000
"""Questions under way."""

Decision = tuple[int, tuple[tuple[bytes, bytes], ...]]
"""A status, 200 for what may pass; and the fields that the request gets, or the answer."""


def _uri(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or any(c <= " " or c == "#" for c in text):
        raise ValueError(f"expected a path such as /auth, found {text!r}")
    return text


class AuthRequest(Plugin):
    """The questions of one service."""

    roles = frozenset({"reverse_proxy"})
    before = ("poll", "cgilike")
    after = ("accesscontrol", "throttle", "maintenance", "basic_auth")
    guards = True
    tunables = (
        Tunable("auth_request_uri", Type("path of a URL", _uri), summary="What nodes are asked for.", source="pbal"),
        Tunable("auth_request_path", REGEX, summary="Only for paths in which it is found. Unset: all.", source="pbal"),
        Tunable("auth_request_by", WORDS, "Authorization, Cookie", "Fields of the request that the question has.", source="pbal"),
        Tunable("auth_request_copy", WORDS, "", "Fields of the answer that the request gets.", source="pbal"),
        Tunable("auth_request_ttl", DURATION, "5s", "How long an answer is remembered.", unit="seconds", source="pbal"),
        Tunable("auth_request_timeout", DURATION, "5s", "How long an answer may take.", unit="seconds", minimum="1ms", source="pbal"),
    )
    counters = (
        Counter("auth_request_questions", "Questions that auth_request asked nodes."),
        Counter("auth_request_denied", "Requests answered 401 or 403 because the application said so."),
        Counter("auth_request_failed", "Requests answered 503 because no answer of the application decided."),
    )

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._known: dict[bytes, tuple[float, Decision]] = {}
        """Decisions, and until when they hold (clock time); the oldest first."""
        self._waiting: dict[bytes, list[Exchange]] = {}
        self._passed: dict[Exchange, None] = {}

    def check(self) -> None:
        if self.service["auth_request_uri"] is None:
            raise ConfigError(f"service '{self.service.name}': auth_request needs auth_request_uri", about="auth_request_uri")

    def changed(self, tunable: str) -> None:
        if tunable.startswith("auth_request"):
            self._known.clear()

    def _concerned(self, exchange: Exchange) -> bool:
        pattern = self.service["auth_request_path"]
        return exchange not in self._passed and (pattern is None or pattern.search(exchange.plain_path) is not None)

    @hook.start_http_request
    def look(self, exchange: Exchange) -> Verdict:
        if not self._concerned(exchange):
            return Verdict.PASS
        key = self._key(exchange)
        known = self._known.get(key)
        if known is not None and known[0] > self.world.clock.now():
            return self._apply(exchange, known[1])
        if exchange.request.framing and not exchange.body_complete:
            return Verdict.PASS  # a body has to come first, or it would be lost
        return self._ask(exchange, key)

    def wants_body(self, exchange: Exchange) -> bool:
        return self._concerned(exchange)

    @hook.proxy_read_request
    def body_came(self, exchange: Exchange) -> Verdict:
        return self.look(exchange)

    @hook.end
    def gone(self, exchange: Exchange) -> None:
        self._passed.pop(exchange, None)

    def _key(self, exchange: Exchange) -> bytes:
        request = exchange.request
        made = blake2b(digest_size=16, key=self.world.identity)
        said = [request.fields.get(name.lower().encode(), b"") for name in self.service["auth_request_by"]]
        for part in (request.method, request.host, request.path, request.query, exchange.client_address, *said):
            made.update(b"%d:" % len(part) + part)
        return made.digest()

    def _ask(self, exchange: Exchange, key: bytes) -> Verdict:
        if key in self._waiting:
            self._waiting[key].append(exchange)
            return Verdict.TAKEN
        request, values = exchange.request, self.service
        target = request.path + (b"?" + request.query if request.query else b"")
        fields = [(b"X-Original-URI", target), (b"X-Original-Method", request.method), (b"X-Forwarded-For", exchange.client_address)]
        fields += [(b"X-Forwarded-Proto", exchange.scheme), *([(b"Host", request.host)] if request.host else [])]
        names = [name.encode() for name in values["auth_request_by"]]
        fields += [(name, request.fields[name.lower()]) for name in names if name.lower() in request.fields]
        try:
            if len(self._waiting) >= MOST_ASKED:
                raise ConfigError("too many questions are under way")
            values.ask(values["auth_request_uri"].encode(), fields, partial(self._answered, key), values["auth_request_timeout"])
        except (ConfigError, IllegalField) as error:
            return self._apply(exchange, self._read(NoAnswer(str(error))))
        self.counts["auth_request_questions"] += 1
        self._waiting[key] = [exchange]
        return Verdict.TAKEN

    def _answered(self, key: bytes, answer: NodeAnswer | NoAnswer) -> None:
        decision, lasts = self._read(answer), self.service["auth_request_ttl"]
        if decision[0] != 503 and lasts:
            self._known.pop(key, None)
            self._known[key] = (self.world.clock.now() + lasts, decision)
            if len(self._known) > MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
        for exchange in self._waiting.pop(key, ()):
            if not exchange.answered and self._apply(exchange, decision) is Verdict.PASS:
                exchange.go_on()

    def _read(self, answer: NodeAnswer | NoAnswer) -> Decision:
        why = answer.reason if isinstance(answer, NoAnswer) else f"the status is {answer.status}"
        if isinstance(answer, NodeAnswer):
            if 200 <= answer.status < 300:
                names = [name.encode() for name in self.service["auth_request_copy"]]
                return 200, tuple((name, answer.fields.get(name.lower(), b"")) for name in names)
            if answer.status == 401:
                return 401, ((b"WWW-Authenticate", answer.fields.get(b"www-authenticate", b'Basic realm="pbal"')),)
            if answer.status == 403:
                return 403, ()
        fields = {"event": "auth_request_failed", "service": self.service.name, "reason": why}
        self.world.log_limited(f"auth_request {self.service.name}", "service %(service)s: auth_request decides nothing: %(reason)s", fields)
        return 503, ((b"Retry-After", b"1"),)

    def _apply(self, exchange: Exchange, decision: Decision) -> Verdict:
        status, fields = decision
        if status == 200:
            self._passed[exchange] = None
            for name, value in fields:
                exchange.set_field(name, value or None)
            return Verdict.PASS
        self.counts["auth_request_failed" if status == 503 else "auth_request_denied"] += 1
        text = {401: b"The application asks who you are.\n", 403: b"The application does not allow this.\n"}
        exchange.error(status, text.get(status, b"It cannot be found out whether this is allowed.\n"), fields)
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        return Explanation([f"asks GET {self.service['auth_request_uri']} first"]) if self._concerned(exchange) else None

    def carry(self) -> tuple[Any, ...]:
        return self._known, self._waiting, self._passed  # the same tables: who asked the generation before hears of it there

    def adopt(self, carried: tuple[Any, ...]) -> None:
        self._known, self._waiting, self._passed = carried
