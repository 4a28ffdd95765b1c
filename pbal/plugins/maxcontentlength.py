"""maxcontentlength: a service refuses bodies that are longer than it says.

    LOAD maxcontentlength
    CREATE SERVICE site
      SET role               = reverse_proxy
      SET plugins            = maxcontentlength
      SET max_content_length = 1000000

It is for configurations that were written for Perlbal: max_body of the core does the same without a plugin. Where both are set, the smaller
one holds. What is longer is answered 413, at its head if that says so, and as soon as it is too long if it comes in chunks. It guards the
service, and comes before plugins that have a body read first (throttle, basic_auth, auth_request).

Source: Perlbal's MaxContentLength. differs: a body that comes in chunks is bounded, too; a size may be written as 1m.
"""

from pbal.api import SIZE, Counter, Exchange, Plugin, Tunable, Verdict, hook


class MaxContentLength(Plugin):
    """The limit of one service."""

    roles = frozenset({"reverse_proxy", "web_server", "selector"})
    before = ("throttle",)
    guards = True
    tunables = (
        Tunable(
            "max_content_length",
            SIZE,
            default="0",
            unit="bytes",
            summary="Most bytes of a request's body. 0: no limit but max_body.",
            source="differs: bodies in chunks are bounded, too",
        ),
    )
    counters = (Counter("content_too_long", "Requests answered 413 because their Content-Length is above max_content_length."),)

    @hook.start_http_request
    def bound(self, exchange: Exchange) -> Verdict:
        limit: int = self.service["max_content_length"]
        if not limit:
            return Verdict.PASS
        if exchange.request.framing > limit:
            self.counts["content_too_long"] += 1
            exchange.error(413, b"Content too long.\n")
            return Verdict.TAKEN
        exchange.body_most = min(exchange.body_most or limit, limit)
        return Verdict.PASS
