r"""highpri: requests whose path or host matches wait in the class that is served first.

    LOAD highpri
    CREATE SERVICE site
      SET role                 = reverse_proxy
      SET plugins              = highpri
      SET highpri_uri_pattern  = ^/(?:login|checkout)
      SET highpri_host_pattern = ^admin\.

It matters only while requests wait for a connection to a node (pbal.conf(5), verify_backend and node_max_connections). Like VPATH, the
first pattern sees the path as a service understands it, and not as it is spelt, then the query. `none` is no pattern.

A search that takes longer than 50 ms of processor time is given up, the request waits as others do, and `regex_timeouts` counts it.

Source: Perlbal's Highpri. differs: highpri_uri_pattern has no default, unless SERVER compatible is perlbal; the path has its escapes
decoded.
"""

import re
from collections.abc import Iterator
from typing import Any

from pbal.api import REGEX, Exchange, Explanation, Plugin, Reply, Searches, Text, TookTooLong, Tunable, Type, hook

_NONE = ("none", "undef", "null")

Pattern = re.Pattern[bytes]


def _parse(text: str) -> Pattern | None:
    return None if text.lower() in _NONE else REGEX.parse(text)


def _render(value: Pattern | None) -> str:
    return "none" if value is None else REGEX.render(value)


PATTERN: Type[Pattern | None] = Type("regex or none", _parse, _render, odd=lambda text: "" if text.lower() in _NONE else REGEX.odd(text))


def patterns(session: Any) -> Reply:
    """Show the patterns of highpri of every service, as statements; `undef` where there is none.

    Source: Perlbal manual, Highpri.
    """

    def lines() -> Iterator[str]:
        yield "High priority pattern buffer:"
        for service, _ in session.world.instances("highpri"):
            for key in ("uri_pattern", "host_pattern"):
                pattern: Pattern | None = service[f"highpri_{key}"]
                yield f"SET {service.name}.highpri.{key} = {'undef' if pattern is None else REGEX.render(pattern)}"

    return Text(lines())


class Highpri(Plugin):
    """The patterns of one service."""

    roles = frozenset({"reverse_proxy"})
    commands = (patterns,)
    tunables = (
        Tunable(
            "highpri_uri_pattern",
            PATTERN,
            default="none",
            perlbal=r"^(?:/interface/(?:xmlrpc|flat)|/login\.bml)$",
            summary="Requests whose path (and query) it is found in are of the high class.",
            source="differs: no default; it sees the path with its escapes decoded",
        ),
        Tunable(
            "highpri_host_pattern",
            PATTERN,
            default="none",
            summary="Requests whose Host it is found in are of the high class.",
            source="Perlbal manual, Highpri",
        ),
    )

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._uri = self._host = Searches(())

    def open(self) -> None:
        self.changed("highpri_")

    def changed(self, tunable: str) -> None:
        if tunable.startswith("highpri_"):
            self._uri, self._host = (
                Searches([pattern] if pattern is not None else ())
                for pattern in (self.service["highpri_uri_pattern"], self.service["highpri_host_pattern"])
            )

    def _which(self, exchange: Exchange) -> str:
        """The tunable whose pattern is found in a request; "" if there is none. Raises: TookTooLong."""
        request = exchange.request
        if self._host.first(request.host) >= 0:
            return "highpri_host_pattern"
        target = exchange.plain_path + (b"?" + request.query if request.query else b"")
        return "highpri_uri_pattern" if self._uri.first(target) >= 0 else ""

    @hook.make_high_priority
    def by_pattern(self, exchange: Exchange) -> bool:
        return bool(self._which(exchange))

    def explain(self, exchange: Exchange) -> Explanation | None:
        try:
            which = self._which(exchange)
        except TookTooLong:
            return Explanation(["a pattern took too long over this path: it waits as others do"])
        return Explanation([f"if it has to wait, it is of the high class ({which})"]) if which else None
