"""redirect: clients that ask for one host are sent to another.

    LOAD redirect
    CREATE SERVICE site
      SET role    = web_server
      SET plugins = redirect
      REDIRECT HOST example.com     www.example.com
      REDIRECT HOST *.old-name.test https://new-name.test

The host itself is looked for first, then the longest pattern that fits, as for VHOST: for foo.site.com these are foo.site.com,
*.foo.site.com, *foo.site.com, *.site.com, *site.com, *.com and *. The answer is 301 with the same path and query below the other host; a
request with a method other than GET and HEAD gets 308, which keeps the method. The place keeps http or https as the client has it, unless
it says one. A request that would be sent where it is already is served, and so is CONNECT, which names no page. `OPTIONS *` is sent to the
host without a path, which means the same (RFC 9112 section 3.2.4).

Source: Perlbal's Redirect. differs: the place may have a port and a scheme, and keeps https; other methods than GET and HEAD get 308.
"""

import re
from typing import Any, Final

from pbal.api import OK, CommandError, Counter, Exchange, Explanation, Hosts, Kind, Plugin, Reply, Verdict, hook, plain_host

_HOST: Final = r"[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\]"
_PATTERN: Final = re.compile(rf"\*(?:\.?[\w-]+(?:\.[\w-]+)*)?|{_HOST}", re.ASCII)
_PLACE: Final = re.compile(rf"(?:(https?)://)?((?:{_HOST})(?::[0-9]{{1,5}})?)/?", re.ASCII)


def redirect_host(session: Any, pattern: str, place: str) -> Reply:
    """Send clients that ask for a host, or for hosts that fit a pattern, to another host. A later one of the same pattern replaces it.

    PATTERN is a host, `*.host` (the host and all that end in .host), `*host` (all that end so), or `*`. PLACE is a host, with a port if it
    needs one, and with http:// or https:// before it if that is not to be the client's own.
    Source: Perlbal manual, REDIRECT HOST.
    """
    instance: Redirect = session.on_service("redirect")
    known = _PATTERN.fullmatch(pattern.lower())
    if known is None:
        message = f"invalid host pattern: expected a host without port such as example.com, *.example.com or *, found '{pattern}'"
        raise CommandError(message, "pattern", kind=Kind.BAD_VALUE)
    if _PLACE.fullmatch(place.lower()) is None:
        message = f"expected a host such as www.example.com, or https://www.example.com:8443, found '{place}'"
        raise CommandError(message, "place", kind=Kind.BAD_VALUE)
    instance.put(known[0] if known[0].startswith("*") else plain_host(known[0]), place.lower().removesuffix("/"))
    return OK


class Redirect(Plugin):
    """The table of one service."""

    roles = frozenset({"reverse_proxy", "web_server", "selector"})
    commands = (redirect_host,)
    before = ("poll", "cgilike")
    ordered_rules = False
    counters = (Counter("hosts_redirected", "Requests answered 301 or 308 because of REDIRECT."),)

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.table: dict[str, str] = {}
        """Patterns, and places."""
        self._hosts = Hosts()
        """The same, to look hosts up in."""

    def put(self, pattern: str, place: str) -> None:
        """Send who asks for such a host to a place."""
        self.table[pattern] = place
        self._hosts.add(pattern, place)

    def _find(self, exchange: Exchange) -> tuple[str, bytes] | None:
        """The pattern that decides, and the place with its scheme; None where the request is served."""
        said = exchange.request.host.decode("latin-1").lower()
        for pattern, place in self._hosts.fitting(plain_host(said)):
            scheme, _, host = place.rpartition("://")
            own = exchange.scheme.decode()
            return None if host == said and scheme in ("", own) else (pattern, f"{scheme or own}://{host}".encode())
        return None

    @hook.start_http_request
    def send_away(self, exchange: Exchange) -> Verdict:
        request = exchange.request
        found = self._find(exchange)
        if found is None or not (request.path.startswith(b"/") or request.path == b"*"):
            return Verdict.PASS
        target = b"" if request.path == b"*" else request.path + (b"?" + request.query if request.query else b"")
        self.counts["hosts_redirected"] += 1
        exchange.respond(301 if request.method in (b"GET", b"HEAD") else 308, [(b"Location", found[1] + target)])
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        found = self._find(exchange)
        return None if found is None else Explanation([f"REDIRECT HOST {found[0]}: to {found[1].decode()}"], takes=True)

    def carry(self) -> dict[str, str]:
        return dict(self.table)

    def adopt(self, carried: dict[str, str]) -> None:
        self.table, self._hosts = {}, Hosts()
        for pattern, place in carried.items():
            self.put(pattern, place)

    def dumpconfig(self) -> tuple[str, ...]:
        return tuple(f"REDIRECT HOST {pattern} {place}" for pattern, place in self.table.items())

    def drop_rule(self, statement: str) -> None:
        pattern = statement.split()[2]
        del self.table[pattern]
        self._hosts.drop(pattern)
