"""What is answered before any hook and role sees a request: challenges of ACME, the redirect to https, hosts of other certificates.

Challenges and the redirect are each service's own: that of the listener, and any that a selector chooses. What host belongs to
a connection is the listener's business alone.
"""

import asyncio
import re
from pathlib import Path
from typing import Final

from pbal.model.exchange import NEW, Exchange
from pbal.model.service import Service
from pbal.net.tasks import spawn
from pbal.roles.searched import in_time

_CHALLENGE: Final = re.compile(rb"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,128})")
"""RFC 8555 section 8.3: a token is base64url."""

MOST: Final = 4096
"""Octets of a challenge's answer: it is a token and a thumbprint."""


def guards(service: Service) -> bool:
    """Whether the service looks at requests here."""
    values = service.values
    return bool(values["https_redirect"]) or values["acme_challenges"] is not None


def admit(service: Service, exchange: Exchange) -> bool:
    """Whether the request goes on; False when it was answered, or will be."""
    values = service.values
    folder = values["acme_challenges"]
    if folder is not None and exchange.method in (b"GET", b"HEAD"):
        match = _CHALLENGE.fullmatch(exchange.path)
        if match is not None:
            exchange.taken_by("acme_challenges")
            spawn(service, _answer(exchange, folder / match[1].decode()), "acme challenge")
            return False
    if values["https_redirect"] and exchange.tls is None and exchange.scheme != b"https":
        _redirect(exchange)
        return False
    return True


def explained(service: Service, exchange: Exchange) -> str:
    """What admit() would answer, for the operator; "" if the request would go on."""
    values = service.values
    if values["acme_challenges"] is not None and exchange.method in (b"GET", b"HEAD") and _CHALLENGE.fullmatch(exchange.path):
        return f"200 or 404: a file of {values['acme_challenges']} (acme_challenges)"
    if values["https_redirect"] and exchange.tls is None and exchange.scheme != b"https":
        return f"{301 if exchange.method in (b'GET', b'HEAD') else 308}: the same over https (https_redirect)"
    return ""


def belongs(service: Service, exchange: Exchange) -> bool:
    """Whether the host of a request belongs on its connection under TLS; False when it was answered with 421, to which rules apply."""
    rule, tls = service.values["ssl_host_check"], exchange.tls
    if rule != "off" and tls is not None and not tls.serves(exchange.request.host, rule):
        if service.rules.slow and not in_time(service, exchange, service.rules.slow):
            return False
        service.world.counters.counts["misdirected_requests"] += 1
        exchange.error(421, b"This connection is not for that host: ask on another.\n")
        return False
    return True


def _redirect(exchange: Exchange) -> None:
    """308 keeps the method (RFC 9110 section 15.4.9); for GET and HEAD 301 is known to every client."""
    request = exchange.request
    host = request.host.rpartition(b":")[0] if re.search(rb":\d*\Z", request.host) else request.host
    if not host:
        exchange.error(400, b"Without a host there is no https address to go to.\n")
        return
    if request.method == b"CONNECT" or not request.path.startswith(b"/"):
        exchange.error(400, b"This is asked for over https only.\n")
        return
    target = request.path + (b"?" + request.query if request.query else b"")
    status = 301 if request.method in (b"GET", b"HEAD") else 308
    exchange.respond(status, [(b"Location", b"https://" + host + target)], b"Here it is https.\n")


async def _answer(exchange: Exchange, file: Path) -> None:
    """Answer with the file, which may lie on a slow disk."""
    body = await asyncio.get_running_loop().run_in_executor(None, _read, file)
    if exchange.answered or exchange.stage is NEW:
        return
    if body is None:
        exchange.error(404, b"There is no such challenge.\n")
    else:
        exchange.respond(200, [(b"Content-Type", b"application/octet-stream")], body)


def _read(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST)
    except OSError:
        return None
