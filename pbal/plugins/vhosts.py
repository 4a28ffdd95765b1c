"""vhosts: a selector chooses the service by the Host of a request.

    LOAD vhosts
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 0.0.0.0:80
      SET plugins = vhosts
      VHOST www.example.com = site
      VHOST *.example.com   = other
    ENABLE front

For foo.site.com these are looked for, in this order: foo.site.com, *.foo.site.com, *.site.com, *.com, *. A pattern whose
service does not exist (any more) is passed over. Case does not count; a port and one trailing dot are cut off.

Under TLS, a pattern that no certificate of the selector covers is warned of: who asks for such a host is shown another's.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any

from pbal.api import OK, CommandError, ConfigError, Exchange, Explanation, Kind, Plugin, Reply, Service, Verdict, hook

log = logging.getLogger("pbal.vhosts")

_PATTERN = re.compile(r"\*|(?:\*\.)?[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\]", re.ASCII)


def candidates(host: str) -> Iterator[str]:
    """What to look up for a host, most particular first."""
    host = host.lower()
    host = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    host = host.removesuffix(".")
    if host:
        yield host
        yield "*." + host
        place = host.find(".")
        while place >= 0:
            yield "*" + host[place:]
            place = host.find(".", place + 1)
    yield "*"


def vhost(session: Any, pattern: str, target: str, selector: Service | None = None) -> Reply:
    """Send requests for a host (or *.host, or *) to a service. A later statement with the same pattern replaces it.

    In a file, the service may be made further down. At the console it must exist.
    Source: Perlbal manual, VHOST. differs: a service that is never made is an error.
    """
    if not _PATTERN.fullmatch(pattern.lower()):
        message = f"invalid host pattern: expected a host without port such as www.example.com, *.example.com or *, found '{pattern}'"
        raise CommandError(message, "pattern", kind=Kind.BAD_VALUE)
    instance = session.on_selector("vhosts", selector)
    instance.table[pattern.lower()] = target
    instance.check()
    return OK


class Vhosts(Plugin):
    """One selector's table."""

    roles = frozenset({"selector"})
    commands = (vhost,)
    ordered_rules = False

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.table: dict[str, str] = {}
        self._warned: set[str] = set()

    def check(self) -> None:
        """Warn, once each, of hosts that no certificate is for. Of a file that is read, `pbal check` and the start warn."""
        certificates = self.service.certificates
        if self.world.runtime is None or certificates is None or not self.service["enable_ssl"]:
            return
        for pattern in self.table:
            if pattern != "*" and pattern not in self._warned and certificates.covering(pattern.strip("[]")) is None:
                self._warned.add(pattern)
                fields = {"event": "certificate_missing", "service": self.service.name, "pattern": pattern}
                log.warning("service %(service)s: no certificate in ssl_cert_file is for VHOST %(pattern)s", fields)

    def _find(self, exchange: Exchange) -> tuple[str, Service] | None:
        """The pattern that a request's host fits, and the service; None if no pattern does."""
        table, services = self.table, self.world.services
        for candidate in candidates(exchange.request.host.decode("latin-1")):
            name = table.get(candidate)
            if name is not None and name.lower() in services:
                return candidate, services[name.lower()]
        return None

    @hook.select_service
    def by_host(self, exchange: Exchange) -> Verdict:
        found = self._find(exchange)
        if found is None:
            return Verdict.PASS
        try:
            exchange.hand_to(found[1])
        except ConfigError as error:
            exchange.error(500, f"{error.message}\n".encode())
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        found = self._find(exchange)
        if found is None:
            return None
        pattern, service = found
        return Explanation([f"VHOST {pattern} = {service.name}"], service.name)

    def targets(self) -> tuple[str, ...]:
        return tuple(self.table.values())

    def carry(self) -> dict[str, str]:
        return dict(self.table)

    def adopt(self, carried: dict[str, str]) -> None:
        self.table = dict(carried)

    def dumpconfig(self) -> tuple[str, ...]:
        return tuple(self._statement(pattern, name) for pattern, name in self.table.items())

    def _statement(self, pattern: str, name: str) -> str:
        service = self.world.services.get(name.lower())
        return f"VHOST {pattern} = {service.name if service is not None else name}"

    def drop_rule(self, statement: str) -> None:
        self.table = {pattern: name for pattern, name in self.table.items() if self._statement(pattern, name) != statement}
