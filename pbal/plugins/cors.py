"""cors: pages of other origins may use a service from their scripts (Fetch standard, CORS protocol).

    LOAD cors
    CREATE SERVICE api
      SET role              = web_server
      SET plugins           = cors
      SET cors_allow_origin = https://www.example.com https://app.example.com:8443
      SET cors_credentials  = on

A browser asks with OPTIONS before a request that no form could make (a preflight). pbal answers it, and no node is asked: 204 for an origin
of cors_allow_origin, 403 for another. It carries no password and no cookie, so it is answered before basic_auth and auth_request look.
Other requests go on, whatever their origin: their answers name the origin if it is allowed, and without that a browser does not show them
to the script. What a node says itself in Access-Control-* fields is taken out. So the plugin keeps nobody from sending a request; an
application has to look at what changes things itself.

It is about what nodes and files answer, whatever the status, and not about error pages of pbal's own. The plugin poll has poll_allow_origin
for its paths, and comes first.
"""

import re
from typing import Any

from pbal.api import (
    BOOL,
    DURATION,
    ORIGINS,
    WORDS,
    ConfigError,
    Exchange,
    Explanation,
    Plugin,
    ResponseHead,
    Tunable,
    Type,
    Verdict,
    hook,
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~A-Za-z0-9-]+")
_FIELD_NAMES = re.compile(rb"[!#$%&'*+.^_`|~A-Za-z0-9-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~A-Za-z0-9-]+)*")


def _tunable(name: str, kind: Type[Any], default: str, summary: str, **more: Any) -> Tunable:
    return Tunable(f"cors_{name}", kind, default=default, summary=summary, source="pbal", **more)


class Cors(Plugin):
    """The origins of one service."""

    roles = frozenset({"reverse_proxy", "web_server"})
    after = ("poll",)
    tunables = (
        _tunable("allow_origin", ORIGINS, "off", "Origins whose pages may use the service, or * for all."),
        _tunable("allow_methods", WORDS, "GET HEAD POST", "Methods that a preflight is told of."),
        _tunable("allow_headers", WORDS, "*", "Fields that scripts may send beside the plain ones; *: those that they ask for."),
        _tunable("expose_headers", WORDS, "", "Fields of answers that scripts may read beside the plain ones."),
        _tunable("credentials", BOOL, "off", "Scripts may send cookies, and see the answer."),
        _tunable("max_age", DURATION, "10m", "How long a browser may remember the answer to a preflight.", unit="seconds", maximum="1d"),
    )

    def check(self) -> None:
        service = self.service
        if service["cors_credentials"] and "*" in service["cors_allow_origin"]:
            message = "cors_credentials: browsers take no cookies for *, name the origins in cors_allow_origin"
            raise ConfigError(message, about="cors_credentials")
        for tunable in ("cors_allow_methods", "cors_allow_headers", "cors_expose_headers"):
            for word in service[tunable]:
                if _TOKEN.fullmatch(word) is None:
                    raise ConfigError(f"{tunable}: expected a name, found '{word}'", about=word)

    def _named(self, exchange: Exchange) -> bytes:
        """The origin that an answer names; b"" where it names none."""
        allowed: tuple[str, ...] = self.service["cors_allow_origin"]
        if "*" in allowed:
            return b"*"
        origin = exchange.request.fields.get(b"origin", b"")
        return origin if origin.decode("latin-1") in allowed else b""

    def _fields(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        """What every answer says, also that it is another one for another origin."""
        found = [] if "*" in self.service["cors_allow_origin"] else [(b"Vary", b"Origin")]
        if origin:
            found.append((b"Access-Control-Allow-Origin", origin))
            if self.service["cors_credentials"]:
                found.append((b"Access-Control-Allow-Credentials", b"true"))
        return found

    @hook.answer_preflight
    def preflight(self, exchange: Exchange) -> Verdict:
        service = self.service
        if not service["cors_allow_origin"]:
            return Verdict.PASS
        origin = self._named(exchange)
        fields = self._fields(origin)
        if not origin:
            exchange.error(403, b"Pages of this origin may not use this service.\n", fields)
            return Verdict.TAKEN
        names = ", ".join(service["cors_allow_headers"]).encode()
        asked = exchange.request.fields.get(b"access-control-request-headers", b"")
        if names == b"*":
            names = asked if _FIELD_NAMES.fullmatch(asked) else b""
        if names:
            fields.append((b"Access-Control-Allow-Headers", names))
        fields.append((b"Access-Control-Allow-Methods", ", ".join(service["cors_allow_methods"]).encode()))
        fields.append((b"Access-Control-Max-Age", b"%d" % service["cors_max_age"]))
        exchange.respond(204, fields)
        return Verdict.TAKEN

    @hook.modify_response_headers
    def name_origin(self, exchange: Exchange, response: ResponseHead) -> None:
        if not self.service["cors_allow_origin"]:
            return
        origin = self._named(exchange)
        kept = [(name, value) for name, value in response.headers if not name.lower().startswith(b"access-control-")]
        response.headers = kept + self._fields(origin)
        if origin and self.service["cors_expose_headers"]:
            exposed = ", ".join(self.service["cors_expose_headers"]).encode()
            response.headers.append((b"Access-Control-Expose-Headers", exposed))

    def explain(self, exchange: Exchange) -> Explanation | None:
        if not self.service["cors_allow_origin"]:
            return None
        origin = self._named(exchange)
        if exchange.preflight:
            return Explanation([f"{'204' if origin else '403'}: a preflight of CORS"], takes=True)
        return Explanation([f"the answer names the origin {origin.decode()}"]) if origin else None
