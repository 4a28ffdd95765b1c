"""`explain`: what would become of a request, without sending it. The way itself is told by roles/explain.py; here it begins."""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.http1.events import BadRequest, RequestHead
from pbal.http1.reader import RequestReader
from pbal.lang.lexical import unquoted
from pbal.model.explaining import Step
from pbal.model.imagined import imagine
from pbal.model.service import Service
from pbal.model.world import World
from pbal.roles.explain import explain as steps_of
from pbal.schema.commands import CommandError, Reply, command

_BETWEEN = re.compile(r'[ \t]+;(?:[ \t]+|\Z)(?=[^"]*(?:"[^"]*"[^"]*)*\Z)')
"""A semicolon between two fields, outside quotes."""
_PORTS = {"http": 80, "https": 443}


@command
def explain(session: Session, method: str, url: str, peer: str | None = None, fields: str | None = None) -> Reply:
    """Show what would become of a request, without sending it.

    It goes to the listener on the URL's port. The steps: which listener and service, by what rule; the plugins with the hooks that would
    run, and what those say that can tell (vhosts, vpaths, poll); whether it is a poll and on which queues; the pool, its nodes and their
    health; and the head that a node would be sent, or the answer that pbal would give. No hook runs: a plugin that tells nothing is taken
    to let the request pass. It comes FROM an address, 127.0.0.1 if none is said. Fields are written as `Name: value`, several with ` ; `
    between them; one that holds such a thing goes in quotes.

        explain GET http://www.example.com/poll/alice Cookie: a=1 ; X-Forwarded-For: 10.0.0.1
    """
    session.runtime()
    wanted = _split(unquoted(url))
    service, address = _listener(session.world, wanted)
    head = _head(service, method, wanted, fields)
    if peer is not None:
        _check_address(peer)
    exchange = imagine(service, head, (peer or "127.0.0.1").encode())
    listener = Step("listener", service.name, f"{address}, from {peer or '127.0.0.1'}, client {exchange.client_address.decode('latin-1')}")
    return table("step service detail", [listener, *steps_of(exchange)], _line)


def _line(row: Row) -> str:
    what, service, detail = row
    return f"{what:<9}{service:<16} {detail}"


def _check_address(peer: str) -> None:
    try:
        ip_address(peer)
    except ValueError:
        raise CommandError(f"expected an address, found '{peer}'", "peer") from None


def _split(url: str) -> SplitResult:
    """A URL of http or https in its parts. Raises: CommandError."""
    try:
        wanted = urlsplit(url)
        good = wanted.scheme in _PORTS and wanted.netloc
    except ValueError:  # a bracket that is not closed
        good = ""
    if not good:
        raise CommandError(f"expected a URL such as http://www.example.com/path, found '{url}'", "url")
    try:
        _ = wanted.port
    except ValueError:
        raise CommandError(f"'{wanted.netloc}' has no such port", "url") from None
    return wanted


def _listener(world: World, wanted: SplitResult) -> tuple[Service, str]:
    """The service whose listener a request of that URL reaches, and its address. Raises: CommandError."""
    scheme, said = wanted.scheme, wanted.port
    candidates = [
        listener
        for listener in (world.runtime.listeners() if world.runtime is not None else ())
        if listener.service.answers_http and (listener.service.certificates is not None) == (scheme == "https")
    ]
    port = said or _PORTS[scheme]
    found = [each for each in candidates if getattr(each.address, "port", None) == port]
    exact = [each for each in found if each.address.host == (wanted.hostname or "")]
    found = exact or found
    if not found and said is None and len(candidates) == 1:
        found = candidates  # there is one way in
    if not found:
        there = ", ".join(sorted(f"{each.service.name} on {each.address}" for each in candidates)) or "none"
        raise CommandError(f"no service answers {scheme} on port {port}; listeners of {scheme}: {there}", "url")
    service: Service = found[0].service
    return service, str(found[0].address)


def _head(service: Service, method: str, wanted: SplitResult, fields: str | None) -> RequestHead:
    """The head as the service's reader reads it. Raises: CommandError with the reader's own words."""
    target = (wanted.path or ("*" if method == "OPTIONS" else "/")) + (f"?{wanted.query}" if wanted.query else "")
    lines = list(_fields(fields or ""))
    if not any(line.lower().startswith("host:") for line in lines):
        lines.insert(0, f"Host: {wanted.netloc.rpartition('@')[2]}")
    text = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""])
    handler: Any = service.handler
    reader = RequestReader(handler.limits)
    reader.feed(text.encode("utf-8", "surrogateescape"))
    try:
        head = reader.next()
    except BadRequest as error:
        where = f" (octet 0x{error.octet:02X} at {error.place})" if error.octet >= 0 else ""
        raise CommandError(f"pbal would answer {error.status}: {error.reason}{where}") from None
    if not isinstance(head, RequestHead):
        raise CommandError("that is not one request")
    return head


def _fields(text: str) -> Iterator[str]:
    """The header lines of a statement."""
    for field in _BETWEEN.split(text.strip()):
        try:
            line = unquoted(field.strip())
        except ValueError as error:
            raise CommandError(str(error), "fields") from None
        if line:
            yield line
