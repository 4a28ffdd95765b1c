"""stats: the console counts what services served (STATS), and lists their last requests (RECENT).

    LOAD stats
    CREATE SERVICE site
      SET role    = reverse_proxy
      SET plugins = stats

Counted since the plugin was put on the service: requests to nodes, each attempt by itself, those of them that had waited in the high
class, requests to a web_server, and files sent, by a web_server or because a node ordered one. SHOW COUNTERS and /metrics tell more, and
count every service.

Source: Perlbal's Stats. differs: a request is of a class only if it had to wait for a connection, so only then is it in
proxy_requests_highpri.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from pbal.api import Exchange, FileFound, Plugin, Reply, RequestHead, ResponseHead, Rows, Unit, Verdict, hook

KEYS: Final = ("files_reproxied", "files_sent", "proxy_requests", "proxy_requests_highpri", "web_requests")
MOST_RECENT: Final = 100
"""Requests of a service that are remembered."""
LONGEST: Final = 1000
"""Octets of a target that are remembered: strangers may send long ones."""


def stats(session: Any) -> Reply:
    """Count what each service with the plugin stats has served, and all of them together.

    Source: Perlbal manual, Stats.
    """
    columns = ("service", "key", "value")
    return Rows(columns, _counted(session), lambda row: f"{row[0]:<15} {row[1]:<25} {row[2]:>12}")


def _counted(session: Any) -> Iterator[tuple[str, str, int]]:
    total = dict.fromkeys(KEYS, 0)
    for service, instance in session.world.instances("stats"):
        for key in KEYS:
            total[key] += instance.served[key]
            yield service.name, key, instance.served[key]
    for key, number in total.items():
        yield "total", key, number


def recent(session: Any) -> Reply:
    """List the last requests to nodes of each service with the plugin stats: service, seconds until the node's answer began, URL.

    Source: Perlbal manual, Stats.
    """
    rows = (
        (service.name, seconds, b"http://%b%b" % (host, target))
        for service, instance in session.world.instances("stats")
        for seconds, host, target in instance.latest
    )
    shown = ((name, seconds, url.decode("latin-1")) for name, seconds, url in rows)
    return Rows(("service", "seconds", "url"), shown, lambda row: f"{row[0]} {row[1]:.4f} {row[2]}", units={"seconds": Unit.SECONDS})


class Stats(Plugin):
    """The numbers of one service."""

    roles = frozenset({"reverse_proxy", "web_server"})
    commands = (stats, recent)

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.served = dict.fromkeys(KEYS, 0)
        self.latest: deque[tuple[float, bytes, bytes]] = deque(maxlen=MOST_RECENT)
        """Seconds, host and target."""

    @hook.start_web_request
    def of_a_web_server(self, exchange: Exchange) -> Verdict:
        self.served["web_requests"] += 1
        return Verdict.PASS

    @hook.backend_client_assigned
    def to_a_node(self, exchange: Exchange) -> None:
        self.served["proxy_requests"] += 1
        if exchange.high:
            self.served["proxy_requests_highpri"] += 1

    @hook.backend_response_received
    def answered(self, exchange: Exchange, response: ResponseHead) -> Verdict:
        request: RequestHead = exchange.request
        self.latest.append((self.world.clock.now() - exchange.asked_at, request.host, exchange.shown[:LONGEST]))
        return Verdict.PASS

    @hook.start_send_file
    def sent(self, exchange: Exchange, file: FileFound) -> Verdict:
        self.served["files_sent"] += 1
        if self.service.role == "reverse_proxy":
            self.served["files_reproxied"] += 1
        return Verdict.PASS

    def carry(self) -> tuple[dict[str, int], list[tuple[float, bytes, bytes]]]:
        return dict(self.served), list(self.latest)

    def adopt(self, carried: tuple[dict[str, int], list[tuple[float, bytes, bytes]]]) -> None:
        served, latest = carried
        self.served |= served
        self.latest.extend(latest)
