r"""notmodified: whoever has a copy is told that it is good, without a look at it.

    LOAD notmodified
    CREATE SERVICE site
      SET role                     = reverse_proxy
      SET plugins                  = notmodified
      SET notmodified_host_pattern = ^img[0-9]*\.

It is for hosts whose addresses never change their contents. A GET or HEAD with If-Modified-Since, whatever date that has, is answered 304
if the pattern is found in its Host; nothing else is looked at. All other requests go on.

Source: Perlbal's NotModified. differs: only GET and HEAD are answered so (RFC 9110 section 13.1.3).
"""

from pbal.api import REGEX, Counter, Exchange, Explanation, Plugin, Searches, Tunable, Verdict, hook


class NotModified(Plugin):
    """The pattern of one service."""

    roles = frozenset({"reverse_proxy", "web_server", "selector"})
    tunables = (
        Tunable(
            "notmodified_host_pattern",
            REGEX,
            summary="Requests whose Host it is found in, and that have If-Modified-Since, are answered 304. Unset: none.",
            source="Perlbal manual, NotModified",
        ),
    )
    counters = (Counter("not_modified_answers", "Requests answered 304 by the plugin notmodified."),)

    def _fits(self, exchange: Exchange) -> bool:
        pattern, request = self.service["notmodified_host_pattern"], exchange.request
        if pattern is None or request.method not in (b"GET", b"HEAD") or b"if-modified-since" not in request.fields:
            return False
        return Searches([pattern]).first(request.host) >= 0

    @hook.start_http_request
    def answer(self, exchange: Exchange) -> Verdict:
        if not self._fits(exchange):
            return Verdict.PASS
        self.counts["not_modified_answers"] += 1
        exchange.respond(304)
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        return Explanation(["304: notmodified_host_pattern is found in the host"], takes=True) if self._fits(exchange) else None
