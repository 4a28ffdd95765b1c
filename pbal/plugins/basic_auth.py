r"""basic_auth: a service asks for a user and a password.

    LOAD basic_auth
    CREATE SERVICE site
      SET role             = reverse_proxy
      SET basic_auth_file  = users.txt
      SET basic_auth_path  = ^/admin(/|$)
      SET basic_auth_realm = "Back office"
      SET plugins          = basic_auth

`pbal password USER` prints a line for the file. Who has no password, or another, is answered 401. Passwords are hashed with scrypt and
looked at off the loop, one at a time. One that was right is known again at once, and the file is read again within a second of a change.
After a wrong password, its address waits for a second, then two, then four, up to a minute; what it sends meanwhile is answered 429.

Use it under TLS: a password goes over the wire as good as in clear text (RFC 7617 section 4). The node gets Authorization as it was sent,
and the access log has $user. Polls, streams and upgrades are requests like others when they come. So are preflights of CORS, which have no
password: cors, and poll for its paths, answer them before they get here; a node that answers them itself would never see them.
"""

from typing import Any, Final

# isort: off
from pbal.api import (
    PASSWORDS, REGEX, ConfigError, Counter, Denied, Exchange, Explanation, Passwords, Plugin, Tunable, Type, Verdict, address_of,
    credentials, hook, spawn,
)  # fmt: skip

LOOKS_AFTER: Final = 1.0
"""Seconds after which a request has the file looked at again."""


def _realm(text: str) -> str:
    if not text or not text.isprintable() or not text.isascii() or set(text) & set('"\\'):
        raise ValueError(f"expected visible ASCII characters and spaces, without quotes, found {text!r}")
    return text


class Users(Passwords):
    """Those of one service."""

    tunable, busy, failures = "basic_auth_file", "basic_auth_busy", "basic_auth_failures"
    most_waiting, most_known = 64, 10_000


class BasicAuth(Plugin):
    """The door of one service."""

    roles = frozenset({"reverse_proxy", "web_server"})
    after = ("accesscontrol", "throttle", "maintenance")
    guards = guards_by_credentials = True
    tunables = (
        Tunable("basic_auth_file", PASSWORDS, summary="Lines of users, as `pbal password` prints them.", source="pbal"),
        Tunable("basic_auth_path", REGEX, summary="Only paths in which it is found need a password. Unset: all.", source="pbal"),
        Tunable("basic_auth_realm", Type("realm", _realm), default="pbal", summary="What browsers show to who is asked.", source="pbal"),
    )
    counters = (
        Counter("basic_auth_failures", "Wrong passwords that basic_auth refused."),
        Counter("basic_auth_busy", "Requests answered 429 because 64 passwords waited to be looked at."),
    )

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.users = Users(service)
        self._judged: set[Exchange] = set()  # their passwords are looked at; the body of some comes meanwhile
        self._passed: set[Exchange] = set()  # their passwords were found right a moment ago
        self._looked = 0.0

    def check(self) -> None:
        if self.service["basic_auth_file"] is None:
            raise ConfigError(f"service '{self.service.name}': basic_auth needs basic_auth_file", about="basic_auth_file")

    def open(self) -> None:
        spawn(self, self.users.look(), f"basic_auth {self.service.name}")

    def _concerned(self, exchange: Exchange) -> bool:
        pattern = self.service["basic_auth_path"]
        return pattern is None or exchange.in_path(pattern)

    @hook.start_http_request
    def look(self, exchange: Exchange) -> Verdict:
        if exchange in self._judged:  # its body has come
            return Verdict.TAKEN
        if exchange in self._passed or not self._concerned(exchange):
            return Verdict.PASS
        said = credentials(exchange.request.fields.get(b"authorization", b""))
        if said is None:
            return self._refuse(exchange)
        now = self.world.clock.now()
        if now - self._looked > LOOKS_AFTER:
            self._looked = now
            spawn(self, self.users.look(), f"basic_auth {self.service.name}")
        if self.users.knows(said[0], said[1].encode("utf-8", "surrogateescape")):
            self._pass(exchange, said[0])
            return Verdict.PASS
        wait = self.users.pause(address_of(exchange.client_address.decode("latin-1")))
        if wait:  # before its body is read
            return self._refuse(exchange, wait)
        if not exchange.body_complete:
            exchange.read_first()  # or it would be lost
        if not exchange.answered:
            self._judged.add(exchange)
            spawn(self, self._judge(exchange, *said), f"basic_auth {self.service.name}")
        return Verdict.TAKEN

    @hook.end
    def gone(self, exchange: Exchange) -> None:
        self._passed.discard(exchange)

    def _pass(self, exchange: Exchange, user: str) -> None:
        self._passed.add(exchange)
        exchange.note("user", user)

    async def _judge(self, exchange: Exchange, user: str, password: str) -> None:
        wait = -1
        try:
            await self.users.check(address_of(exchange.client_address.decode("latin-1")), user, password)
        except Denied as denied:
            wait = denied.wait
        finally:
            self._judged.discard(exchange)
        if exchange.waits_for("basic_auth") and wait >= 0:
            self._refuse(exchange, wait)
        elif exchange.waits_for("basic_auth"):
            self._pass(exchange, user)
            if not exchange.collecting:
                exchange.go_on()

    def _refuse(self, exchange: Exchange, wait: int = 0) -> Verdict:
        if wait:
            exchange.error(429, b"Wrong passwords came from here: try again later.\n", [(b"Retry-After", b"%d" % wait)])
        else:
            realm = self.service["basic_auth_realm"].encode()
            exchange.error(
                401, b"A user and a password are needed.\n", [(b"WWW-Authenticate", b'Basic realm="%b", charset="UTF-8"' % realm)]
            )
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        if not self._concerned(exchange):
            return None
        asked = credentials(exchange.request.fields.get(b"authorization", b"")) is None
        return Explanation(["401: no user and password" if asked else "its password is looked at"], takes=asked)

    def carry(self) -> tuple[Any, set[Exchange], set[Exchange]]:
        return self.users.carry(), self._passed, self._judged

    def adopt(self, carried: tuple[Any, set[Exchange], set[Exchange]]) -> None:
        known, self._passed, self._judged = carried
        self.users.adopt(known)
