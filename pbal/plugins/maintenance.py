r"""maintenance: a service answers 503 with a page, but for those who work on it.

    LOAD maintenance
    CREATE SERVICE site
      SET role                    = reverse_proxy
      SET plugins                 = maintenance
      SET maintenance_page        = sorry.html
      SET maintenance_allow       = 10.0.0.0/8
      SET maintenance_path        = ^/shop(/|$)
      SET maintenance_retry_after = 10m

`SET site.maintenance = on` begins it, `SET site.maintenance = off` ends it. Clients whose address, after trust, is in maintenance_allow are
served. What is under way and polls that are parked go on. Without a page of its own, the service's error_pages have it. A page that was
written is read again by SET, and by `RELOAD maintenance`.
"""

from pathlib import Path
from typing import Any, Final

# isort: off
from pbal.api import (
    BOOL, DURATION, NETWORKS, PATH, REGEX, ConfigError, Counter, Exchange, Explanation, Networks, Plugin, Tunable, Verdict, hook,
)  # fmt: skip

LARGEST: Final = 1 << 20
"""Octets of a page: it is kept in memory."""


def _page(path: Path) -> bytes:
    """Read the page. Raises: ConfigError."""
    try:
        with open(path, "rb") as file:
            page = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"maintenance_page: {path}: {error.strerror}", about="maintenance_page") from None
    if len(page) > LARGEST:
        raise ConfigError(f"maintenance_page: {path} is longer than {LARGEST} bytes", about="maintenance_page")
    return page


class Maintenance(Plugin):
    """The sign on the door of one service."""

    roles = frozenset({"reverse_proxy", "web_server", "selector"})
    after = ("accesscontrol",)
    guards = True
    tunables = (
        Tunable("maintenance", BOOL, default="off", summary="Whether requests are answered 503.", source="pbal"),
        Tunable("maintenance_path", REGEX, summary="Only paths in which it is found. Unset: all.", source="pbal"),
        Tunable("maintenance_allow", NETWORKS, default="", summary="Networks whose clients are served all the same.", source="pbal"),
        Tunable(
            "maintenance_page", PATH, summary="A file of HTML that is shown, at most 1 MB. Unset: error_pages.", source="pbal", reads=_page
        ),
        Tunable(
            "maintenance_retry_after",
            DURATION,
            default="5m",
            unit="seconds",
            summary="When clients are told to come again. 0: they are told nothing.",
            source="pbal",
        ),
    )
    counters = (Counter("maintenance_answers", "Requests answered 503 by the plugin maintenance."),)

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._allowed = Networks(())
        self._page = b""

    def check(self) -> None:
        self._page = self.service.reading("maintenance_page") or b""
        if self._allowed.networks != self.service["maintenance_allow"]:
            self._allowed = Networks(self.service["maintenance_allow"])

    def changed(self, tunable: str) -> None:
        self.check()  # also when a change is taken back

    def _closed(self, exchange: Exchange) -> bool:
        if not self.service["maintenance"] or exchange.client_address in self._allowed:
            return False
        pattern = self.service["maintenance_path"]
        return pattern is None or exchange.in_path(pattern)

    @hook.start_http_request
    def turn_away(self, exchange: Exchange) -> Verdict:
        if not self._closed(exchange):
            return Verdict.PASS
        self.counts["maintenance_answers"] += 1
        wait = round(self.service["maintenance_retry_after"])
        fields = [(b"Retry-After", b"%d" % wait), (b"Cache-Control", b"no-store")][0 if wait else 1 :]
        if self._page:
            exchange.respond(503, [(b"Content-Type", b"text/html; charset=utf-8"), *fields], self._page)
        else:
            exchange.error(503, b"The service is being worked on. Please come again later.\n", fields)
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        return Explanation(["503: maintenance is on"], takes=True) if self._closed(exchange) else None
