r"""auth_request: the application decides of each request whether it may pass.

    LOAD auth_request
    CREATE POOL app
      POOL app ADD 127.0.0.1:8080
    CREATE SERVICE site
      SET role              = reverse_proxy
      SET pool              = app
      SET auth_request_uri  = /auth
      SET auth_request_path = ^/private(/|$)
      SET auth_request_copy = X-User
      SET plugins           = auth_request

pbal asks a node of the pool: GET /auth, with the fields of auth_request_by, X-Original-URI, X-Original-Method, X-Forwarded-For and
X-Forwarded-Proto. After a 2xx the request goes on (polls and upgrades, too), with the fields of auth_request_copy from that answer; from
the client they go on for no path. 401 and 403 are the client's answer; else, or without one in time, it is 503. An answer is remembered for
auth_request_ttl. A request for up to 32 files, /dir/??a,b, passes if it may itself, and for each as X-Original-URI: /dir/a.
"""

from functools import partial
from hashlib import blake2b
from typing import Any

# isort: off
from pbal.api import (
    DURATION, REGEX, TEXT, TOKENS, ConfigError, Counter, Exchange, Explanation, IllegalField, NoAnswer, NodeAnswer, Plugin, Remembered,
    Tunable, Verdict, hook,
)  # fmt: skip

MOST_ASKED, MOST_REMEMBERED, MOST_PATHS = 1_000, 10_000, 33  # questions under way, decisions, and questions of one request
Decision = tuple[int, tuple[tuple[bytes, bytes], ...]]  # a status, 200 for what may pass; fields for the request, or of the answer


class AuthRequest(Plugin):
    roles = frozenset({"reverse_proxy"})
    after = ("accesscontrol", "throttle", "maintenance", "basic_auth")
    guards = guards_by_credentials = True
    tunables = (
        Tunable("auth_request_uri", TEXT, summary="What nodes are asked for.", source="pbal"),
        Tunable("auth_request_path", REGEX, summary="Only for paths in which it is found. Unset: all.", source="pbal"),
        Tunable("auth_request_by", TOKENS, "Authorization Cookie", "Fields of the request that the question has.", source="pbal"),
        Tunable("auth_request_copy", TOKENS, "", "Fields of the answer that the request gets.", source="pbal"),
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
        self._known: Remembered[Decision] = Remembered(MOST_REMEMBERED)
        self._waiting: dict[bytes, dict[Exchange, None]] = {}
        self._decided: dict[Exchange, dict[bytes, Decision]] = {}

    def check(self) -> None:
        if not (self.service["auth_request_uri"] or "").startswith("/"):
            raise ConfigError("auth_request needs auth_request_uri, a path such as /auth", about="auth_request_uri")

    def changed(self, tunable: str) -> None:
        self._known.clear()

    def _concerned(self, exchange: Exchange) -> bool:
        return self.service["auth_request_path"] is None or exchange.in_path(self.service["auth_request_path"])

    @hook.start_http_request
    def look(self, exchange: Exchange) -> Verdict:
        decided = self._decided.setdefault(exchange, {})
        if b"" in decided or not self._concerned(exchange):  # b"": what was decided of all of its paths
            return self._apply(exchange, decided.get(b"", (200, ())))
        for path in (None, *exchange.paths[1:]) if len(exchange.paths) <= MOST_PATHS else ():
            uri, fields = self.service["auth_request_uri"].encode(), exchange.asked_about(self.service["auth_request_by"], path)
            key = blake2b(repr((uri, fields)).encode(), digest_size=16, key=self.world.identity).digest()
            decision = decided.get(key) or self._known.get(key, self.world.clock.now())
            if decision is None:
                return self._ask(exchange, key, uri, fields)
            if decision[0] != 200:
                return self._apply(exchange, decision)
            decided[key] = decision
        found = set(decided.values())
        return self._apply(exchange, found.pop() if len(found) == 1 else (403, ()))  # nodes are told of one client

    def _ask(self, exchange: Exchange, key: bytes, uri: bytes, fields: list[tuple[bytes, bytes]]) -> Verdict:
        if not exchange.body_complete and not exchange.collecting:
            exchange.read_first()  # or it would be lost
        if exchange.answered or key in self._waiting:
            self._waiting.get(key, {})[exchange] = None
            return Verdict.TAKEN
        try:
            if len(self._waiting) >= MOST_ASKED:
                raise ConfigError("too many questions are under way")
            self.service.ask(uri, fields, partial(self._answered, key), self.service["auth_request_timeout"])
        except (ConfigError, IllegalField) as error:
            return self._apply(exchange, self._read(NoAnswer(str(error))))
        self.counts["auth_request_questions"] += 1
        self._waiting[key] = {exchange: None}
        return Verdict.TAKEN

    @hook.end
    def gone(self, exchange: Exchange) -> None:
        self._decided.pop(exchange, None)

    def _answered(self, key: bytes, answer: NodeAnswer | NoAnswer) -> None:
        decision, now = self._read(answer), self.world.clock.now()
        if decision[0] != 503:
            self._known.put(key, decision, now + self.service["auth_request_ttl"], now)
        for exchange in [each for each in self._waiting.pop(key, ()) if each.waits_for("auth_request")]:
            self._decided.setdefault(exchange, {})[key] = decision
            if not exchange.collecting:
                exchange.go_on()  # its hooks run again, and look at the decision, as they do when its body has come
            elif decision[0] != 200:
                self._apply(exchange, decision)

    def _read(self, answer: NodeAnswer | NoAnswer) -> Decision:
        if isinstance(answer, NodeAnswer):
            said = answer.fields
            if 200 <= answer.status < 300:
                return 200, tuple((name, said.get(name.lower(), b"")) for name in self.service["auth_request_copy"])
            if answer.status == 401:
                return 401, ((b"WWW-Authenticate", said.get(b"www-authenticate", b'Basic realm="pbal"')),)
            if answer.status == 403:
                return 403, ()
        why = answer.reason if isinstance(answer, NoAnswer) else f"the status is {answer.status}"
        told = {"event": "auth_request_failed", "service": self.service.name, "reason": why}
        self.world.log_limited(f"auth_request {self.service.name}", "service %(service)s: auth_request decides nothing: %(reason)s", told)
        return 503, ((b"Retry-After", b"1"),)

    def _apply(self, exchange: Exchange, decision: Decision) -> Verdict:
        status, fields = decision
        if status == 200:
            for name in self.service["auth_request_copy"]:  # nodes believe these: what the client says goes on for no path
                exchange.set_field(name, dict(fields).get(name) or None)
            self._decided[exchange] = {b"": decision}
            return Verdict.PASS
        self.counts["auth_request_failed" if status == 503 else "auth_request_denied"] += 1
        text = {401: b"The application asks who you are.\n", 403: b"The application does not allow this.\n"}
        exchange.error(status, text.get(status, b"It cannot be found out whether this is allowed.\n"), fields)
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        return Explanation([f"asks GET {self.service['auth_request_uri']} first"]) if self._concerned(exchange) else None

    def carry(self) -> tuple[Any, ...]:
        return self._known, self._waiting, self._decided  # the same tables: who asked the generation before hears of it there

    def adopt(self, carried: tuple[Any, ...]) -> None:
        self._known, self._waiting, self._decided = carried
