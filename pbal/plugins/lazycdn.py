r"""lazycdn: a web_server hands requests for files that it has not, or not new enough, to another service, which has.

    LOAD lazycdn
    CREATE POOL origins
      POOL origins ADD 10.0.0.20:8080
    CREATE SERVICE origin
      SET role = reverse_proxy
      SET pool = origins
    ENABLE origin
    CREATE SERVICE edge
      SET role                   = web_server
      SET listen                 = 0.0.0.0:80
      SET docroot                = /srv/copies
      SET plugins                = lazycdn
      SET fallback_service       = origin
      SET fallback_udp_ping_addr = 10.0.0.20:7000
    ENABLE edge

A request goes to `fallback_service` if its file is missing, or if there is `v=NUMBER` in its target and the file was changed before
NUMBER, in seconds since 1970: /logo.png?v=1700000000 is answered from a copy of that second or a later one. Of several files in one
request (enable_concatenate_get) one that is missing, or the newest that is older, decides. The target of each such request is sent to
`fallback_udp_ping_addr`, in a datagram of its own, so that a program there can fetch the file. No answer is awaited; what could not be
sent is counted.

If there is no such service, the web_server answers as if it had no fallback, and says so in the log.

Source: Perlbal's LazyCDN. differs: a request with a body is not handed on once its body has come; a ping goes to an address of IPv6, too.
"""

import ipaddress
import re
import socket
from typing import Final

from pbal.api import (
    ENDPOINT,
    AnswerRefused,
    ConfigError,
    Counter,
    Endpoint,
    Exchange,
    Plugin,
    Tunable,
    Type,
    Verdict,
    hook,
    name_of,
)

WANTED: Final = re.compile(rb"\bv=([0-9]{1,15})\b")


def _parse(text: str) -> Endpoint:
    try:
        found = ENDPOINT.parse(text)
        ipaddress.ip_address(found.host)
        if not text.endswith(f":{found.port}"):
            raise ValueError(text)
    except ValueError:
        raise ValueError(f"expected an address and a port such as 10.0.0.20:7000, found {text!r}") from None
    return found


ADDRESS: Type[Endpoint] = Type("address:port", _parse)


class LazyCDN(Plugin):
    """The fallback of one service."""

    roles = frozenset({"web_server"})
    tunables = (
        Tunable("fallback_service", name_of("service"), roles=roles, source="Perlbal's LazyCDN",
                summary="The service that answers for files that are missing or too old. It may be made further down."),
        Tunable("fallback_udp_ping_addr", ADDRESS, roles=roles, source="Perlbal's LazyCDN",
                summary="Where the target of each request that is handed on is sent as a datagram."),
    )  # fmt: skip
    counters = (
        Counter("lazycdn_handed_on", "Requests that lazycdn handed to fallback_service."),
        Counter("lazycdn_pings_lost", "Datagrams to fallback_udp_ping_addr that could not be sent."),
    )
    _socket: socket.socket | None = None

    def check(self) -> None:
        """See Plugin."""
        if (self.service["fallback_service"] or "").lower() == self.service.name.lower():
            raise ConfigError(f"fallback_service: '{self.service.name}' would hand requests to itself", about="fallback_service")

    def targets(self) -> tuple[str, ...]:
        """See Plugin."""
        name = self.service["fallback_service"]
        return () if name is None else (name,)

    def open(self) -> None:
        """See Plugin."""
        to = self.service["fallback_udp_ping_addr"]
        if to is not None:
            self._socket = socket.socket(socket.AF_INET6 if ":" in to.host else socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self._socket.setblocking(False)

    def changed(self, tunable: str) -> None:
        """See Plugin."""
        if tunable == "fallback_udp_ping_addr":
            self.close()
            self.open()

    def close(self) -> None:
        """See Plugin."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @hook.static_get_poststat_file_missing
    def missing(self, exchange: Exchange) -> Verdict:
        return self._hand_on(exchange)

    @hook.concat_get_poststat_file_missing
    def one_missing(self, exchange: Exchange) -> Verdict:
        return self._hand_on(exchange)

    @hook.static_get_poststat_pre_send
    def older(self, exchange: Exchange, modified: int) -> Verdict:
        return self._hand_on(exchange) if self._too_old(exchange, modified) else Verdict.PASS

    @hook.concat_get_poststat_pre_send
    def all_older(self, exchange: Exchange, modified: int) -> Verdict:
        return self._hand_on(exchange) if self._too_old(exchange, modified) else Verdict.PASS

    def _too_old(self, exchange: Exchange, modified: int) -> bool:
        wanted = WANTED.search(exchange.request.target)
        return wanted is not None and int(wanted[1]) > modified

    def _hand_on(self, exchange: Exchange) -> Verdict:
        name = self.service["fallback_service"]
        if name is None:
            return Verdict.PASS
        service = self.world.services.get(name.lower())
        if service is None:
            return self._cannot(name, "there is none")
        target = exchange.request.target
        try:
            exchange.hand_to(service)
        except ConfigError as error:
            return self._cannot(name, str(error))
        except AnswerRefused:  # its body has come, and is not there any more
            return Verdict.PASS
        self.counts["lazycdn_handed_on"] += 1
        self._ping(target)
        return Verdict.TAKEN

    def _cannot(self, name: str, why: str) -> Verdict:
        self.world.log_limited(
            f"lazycdn {self.service.name}",
            "service %(service)s: fallback_service '%(to)s' cannot answer: %(text)s",
            {"event": "fallback_missing", "service": self.service.name, "to": name, "text": why},
        )
        return Verdict.PASS

    def _ping(self, target: bytes) -> None:
        to = self.service["fallback_udp_ping_addr"]
        if self._socket is None or to is None:
            return
        try:
            self._socket.sendto(target, (to.host, to.port))
        except OSError as error:
            self.counts["lazycdn_pings_lost"] += 1
            self.world.log_limited(
                f"lazycdn ping {self.service.name}",
                "service %(service)s: a datagram to %(to)s was not sent: %(text)s",
                {"event": "ping_lost", "service": self.service.name, "to": str(to), "text": str(error)},
            )
