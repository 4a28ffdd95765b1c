r"""highpri: requests whose path or host matches wait in the class that is served first.

    LOAD highpri
    CREATE SERVICE site
      SET role                 = reverse_proxy
      SET plugins              = highpri
      SET highpri_uri_pattern  = ^/(?:login|checkout)
      SET highpri_host_pattern = ^admin\.

It matters only while requests wait for a connection to a node (pbal.conf(5), verify_backend and node_max_connections). Like VPATH, the
first pattern sees the path as a service understands it, and not as it is spelt, then the query.

Source: Perlbal's Highpri. differs: there is no pattern unless one is set.
"""

import re

from pbal.api import REGEX, Exchange, Plugin, Tunable, Type, hook

_NONE = ("none", "undef", "null")

Pattern = re.Pattern[bytes]


def _parse(text: str) -> Pattern | None:
    return None if text.lower() in _NONE else REGEX.parse(text)


def _render(value: Pattern | None) -> str:
    return "none" if value is None else REGEX.render(value)


PATTERN: Type[Pattern | None] = Type("regex|none", _parse, _render, odd=lambda text: "" if text.lower() in _NONE else REGEX.odd(text))


class Highpri(Plugin):
    """The patterns of one service."""

    roles = frozenset({"reverse_proxy"})
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

    @hook.make_high_priority
    def by_pattern(self, exchange: Exchange) -> bool:
        uri, host = self.service["highpri_uri_pattern"], self.service["highpri_host_pattern"]
        if host is not None and host.search(exchange.request.host):
            return True
        if uri is None:
            return False
        query = exchange.request.query
        return uri.search(exchange.plain_path + (b"?" + query if query else b"")) is not None
