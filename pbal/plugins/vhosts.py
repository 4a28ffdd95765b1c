"""vhosts: a selector chooses the service by the Host of a request.

    LOAD vhosts
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 0.0.0.0:80
      SET plugins = vhosts
      VHOST www.example.com = site
      VHOST *.example.com   = other
    ENABLE front

The host itself is looked for first, then the longest pattern that fits. For foo.site.com: foo.site.com, *.foo.site.com, *foo.site.com,
*.site.com, *site.com, *.com, *. So *.site.com is for site.com, too, and *site.com is also for mysite.com. A service that a VHOST names
cannot be dropped. Case does not count; a port and one trailing dot are cut off; an IPv6 address is the same however it is spelt. Names with
other letters than ASCII are said as they are sent: xn--bcher-kva.example.

A host may borrow from another: with `VHOST www.example.com;using:login.example.com = login` a request of www.example.com for
/__using/login.example.com/NAME goes to that service, with its Host changed to login.example.com and its path as it was. NAME is
one word. Where a selector has such patterns, and none is for the pair of hosts, the answer is 404; where it has none, the path is
one like others.

Source: Perlbal's Vhosts. differs: a host matches in any case; of a pair for /__using/ each half is a host, and the first may be a pattern;
default_service works beside it; no pattern is passed over because its service does not exist.

Which host leads to which service is remembered, so that a request costs one look into a dict however many patterns there are. What
is remembered holds while the service of that name is the same one.

Under TLS, a pattern that no certificate of the selector covers is warned of: who asks for such a host is shown another's.
"""

import logging
import re
from contextlib import suppress
from typing import Any, Final

from pbal.api import OK, CommandError, ConfigError, Exchange, Explanation, Hosts, Kind, Plugin, Reply, Service, Verdict, hook, plain_host

log = logging.getLogger("pbal.vhosts")

_HOST: Final = r"[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\]"
_PATTERN: Final = re.compile(rf"(\*(?:\.?[\w-]+(?:\.[\w-]+)*)?|{_HOST})(?:;using:({_HOST}))?", re.ASCII)
_BORROWED: Final = re.compile(rb"/__using/([\w.-]+)/\w+", re.ASCII)
_NO_ANSWER: Final = b"The selected service answers no requests.\n"
MOST: Final = 4096
"""Hosts that are remembered. Strangers can ask for very many where a pattern has a `*`."""
LONGEST: Final = 255
"""Characters of a host that is remembered: no name is longer (RFC 1035 section 2.3.4)."""


def plain_pattern(pattern: str) -> str:
    """A pattern as it is kept. Raises: CommandError."""
    match = _PATTERN.fullmatch(pattern.lower())
    if match is not None:
        own = match[1] if match[1].startswith("*") else plain_host(match[1])
        return own if match[2] is None else f"{own};using:{plain_host(match[2])}"
    message = f"invalid host pattern: expected a host without port such as www.example.com, *.example.com or *, found '{pattern}'"
    hint = ""
    if not pattern.isascii():
        with suppress(UnicodeError):
            hint = f"did you mean '{pattern.lower().encode('idna').decode()}'?"
    elif pattern.startswith(".") and _PATTERN.fullmatch("*" + pattern.lower()):
        hint = f"did you mean '*{pattern}'?"
    elif pattern.endswith(".") and _PATTERN.fullmatch(pattern[:-1].lower()):
        hint = f"did you mean '{pattern[:-1]}'?"
    elif ":" in pattern and _PATTERN.fullmatch(f"[{pattern.lower()}]"):
        hint = f"did you mean '[{pattern}]'?"
    elif (host := pattern.rpartition(":")[0]) and _PATTERN.fullmatch(host.lower()):
        hint = f"a pattern is for every port: did you mean '{host}'?"
    raise CommandError(message, "pattern", hint, kind=Kind.BAD_VALUE)


def certified_as(host: str) -> str:
    """The name that a certificate for a pattern's hosts has."""
    return f"*.{host[1:]}" if host.startswith("*") and not host.startswith("*.") else host.strip("[]")


def vhost(session: Any, pattern: str, target: str, selector: Service | None = None) -> Reply:
    """Send requests for a host, or for hosts that fit a pattern, to a service. A later statement with the same pattern replaces it.

    PATTERN is a host, `*.host` (the host and all that end in .host), `*host` (all that end so), or `*`. The host itself comes first, then
    the longest pattern. Case, a port and a trailing dot do not count. With `;using:OTHER` behind it, it is for paths
    /__using/OTHER/NAME of such a host, whose Host becomes OTHER. DROP RULE takes a VHOST back.

    In a file, the service may be made further down. At the console it must exist.
    Source: Perlbal manual, VHOST. differs: a service that is never made is an error; *host fits hosts; the case of Host does not count.
    """
    plain = plain_pattern(pattern)
    instance = session.on_selector("vhosts", selector)
    instance.put(plain, target)
    instance.look_at(plain)
    return OK


class Vhosts(Plugin):
    """One selector's table."""

    roles = frozenset({"selector"})
    guards = True
    """Or each host would be answered by default_service."""
    commands = (vhost,)
    ordered_rules = False

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.table: dict[str, str] = {}
        """Patterns, and names of services."""
        self._hosts = Hosts()
        """The patterns without `using`."""
        self._lent: dict[str, Hosts] = {}
        """The others, by the host that they use."""
        self._known: dict[bytes, tuple[str, Service]] = {}
        """Hosts that were asked for: the key of the service in `world.services`, and the service."""
        self._warned: set[str] = set()

    def put(self, pattern: str, name: str) -> None:
        """Send requests for a pattern to a service."""
        self.table[pattern] = name
        host, _, other = pattern.partition(";using:")
        hosts = self._lent.setdefault(other, Hosts()) if other else self._hosts
        hosts.add(host, name)
        self._known = {}

    def check(self) -> None:
        """Warn, once each, of hosts that no certificate is for. Of a file that is read, `pbal check` and the start warn."""
        for pattern in self.table:
            self.look_at(pattern)

    def look_at(self, pattern: str) -> None:
        """The same, for one pattern."""
        certificates, host = self.service.certificates, pattern.partition(";")[0]
        if self.world.runtime is None or certificates is None or not self.service["enable_ssl"] or host in self._warned or host == "*":
            return
        if certificates.covering(certified_as(host)) is None:
            self._warned.add(host)
            fields = {"event": "certificate_missing", "service": self.service.name, "pattern": host}
            log.warning("service %(service)s: no certificate in ssl_cert_file is for VHOST %(pattern)s", fields)

    def _first(self, hosts: Hosts, host: bytes) -> tuple[str, Service] | None:
        """The pattern that a host fits, and its service; None if no pattern fits. Raises: UnknownName where there is no such service."""
        for pattern, name in hosts.fitting(plain_host(host.decode("latin-1"))):
            return pattern, self.world.service(name)
        return None

    def _look_up(self, host: bytes) -> Service | None:
        """The service for a host that is not known, which is remembered then. Raises: UnknownName."""
        found = self._first(self._hosts, host)
        if found is None:
            return None
        service = found[1]
        if len(host) <= LONGEST:
            if len(self._known) >= MOST:
                self._known = {}
            self._known[host] = service.name.lower(), service
        return service

    def _borrowed(self, exchange: Exchange) -> tuple[str, tuple[str, Service] | None] | None:
        """The other host that a request is to use, and what fits; None for a request that is like others."""
        match = _BORROWED.fullmatch(exchange.path) if self._lent else None
        if match is None:
            return None
        other = plain_host(match[1].decode("latin-1"))
        hosts = self._lent.get(other)
        return other, None if hosts is None else self._first(hosts, exchange.request.host)

    @hook.select_service
    def by_host(self, exchange: Exchange) -> Verdict:
        request = exchange.request
        try:
            if self._lent and request.path.startswith(b"/__using/"):
                borrowed = self._borrowed(exchange)
                if borrowed is not None:
                    return self._lend(exchange, *borrowed)
            known = self._known.get(request.host)
            if known is not None and self.world.services.get(known[0]) is known[1]:
                service: Service | None = known[1]
            else:
                service = self._look_up(request.host)
            if service is None:
                return Verdict.PASS
            exchange.hand_to(service)
        except ConfigError:  # the log has it
            exchange.error(500, _NO_ANSWER)
        return Verdict.TAKEN

    def _lend(self, exchange: Exchange, other: str, found: tuple[str, Service] | None) -> Verdict:
        if found is None:
            exchange.error(404, b"This host may not use that one.\n")
            return Verdict.TAKEN
        exchange.set_field(b"Host", other.encode("latin-1"))
        exchange.hand_to(found[1])
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        borrowed = self._borrowed(exchange)
        if borrowed is not None:
            other, found = borrowed
            if found is None:
                return Explanation([f"404: no VHOST says that this host uses {other}"], takes=True)
            words = f"VHOST {found[0]};using:{other} = {found[1].name}"
            return Explanation([words, f"Host becomes {other}"], found[1].name, host=other.encode("latin-1"))
        found = self._first(self._hosts, exchange.request.host)
        if found is None:
            return None
        return Explanation([f"VHOST {found[0]} = {found[1].name}"], found[1].name)

    def targets(self) -> tuple[str, ...]:
        return tuple(self.table.values())

    def carry(self) -> dict[str, str]:
        return dict(self.table)

    def adopt(self, carried: dict[str, str]) -> None:
        self.table, self._hosts, self._lent = {}, Hosts(), {}
        for pattern, name in carried.items():
            self.put(pattern, name)

    def dumpconfig(self) -> tuple[str, ...]:
        return tuple(self._statement(pattern, name) for pattern, name in self.table.items())

    def _statement(self, pattern: str, name: str) -> str:
        service = self.world.services.get(name.lower())
        return f"VHOST {pattern} = {service.name if service is not None else name}"

    def drop_rule(self, statement: str) -> None:
        pattern = statement.split()[1]
        del self.table[pattern]
        host, _, other = pattern.partition(";using:")
        hosts = self._lent[other] if other else self._hosts
        hosts.drop(host)
        if other and not hosts:
            del self._lent[other]
        self._known = {}
