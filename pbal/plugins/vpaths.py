r"""vpaths: a selector chooses the service by the path of a request.

    LOAD vpaths
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 0.0.0.0:80
      SET plugins         = vpaths
      SET default_service = site
      VPATH ^/static/ = files
      VPATH ^/poll/   = chat
    ENABLE front

The first pattern, in the order of the statements, that is found in the target (path and query) decides. No match:
default_service, or 404. Beside vhosts in `plugins`, the one named first is asked first.

A search that takes longer than 50 ms of processor time is given up, so that no target can stop pbal: the request is answered 500, for no
later rule may decide in place of one that could not, and `regex_timeouts` counts it.

A rule may be what keeps strangers out of ^/admin, so it sees the path as a service will understand it, and not as it is spelt:
`/%61dmin`, `//admin` and `/x/../admin` are `/admin`. The request itself goes on as it came.

Source: Perlbal's Vpaths. differs: the pattern keeps its case and sees the path with its escapes decoded; it works beside vhosts.
"""

import re
from functools import partial
from typing import Any

from pbal.api import (
    OK,
    REGEX,
    ConfigError,
    Exchange,
    Explanation,
    Plugin,
    Reply,
    Searches,
    Service,
    TookTooLong,
    Verdict,
    bad_argument,
    hook,
    quoted_word,
)


def vpath(session: Any, regex: str, target: str, selector: Service | None = None) -> Reply:
    """Send requests to a service if a regular expression matches somewhere in their target (path and query).

    The expression sees the path as a service reads it: escapes of visible ASCII characters are decoded (those of %, ? and #
    stay), the parameters of segments (;x) are taken off, doubled slashes are one, and the segments . and .. are resolved. It sees the
    query as it was sent. pbal sends the request on unchanged.

    In a file, the service may be made further down. At the console it must exist.

    Source: Perlbal manual, VPATH. differs: the pattern keeps its case; a service that is never made is an error.
    """
    instance = session.on_selector("vpaths", selector)
    try:
        compiled = REGEX.parse(regex)
    except ValueError as error:
        raise bad_argument("regex", error) from None
    instance.rules.append((compiled, target))
    instance.use(instance.rules)
    if REGEX.odd(regex):
        session.warn("it repeats what is repeated itself: the search in a path that nearly matches is given up, and answered 500", "regex")
    return OK


def _number(searches: Searches, query: bytes, path: bytes) -> int:
    """The number of the rule that a plain path with a query matches, from 1 on; 0 if none does. Raises: TookTooLong."""
    return searches.first(b"%b?%b" % (path, query)) + 1


class Vpaths(Plugin):
    """One selector's rules, in order."""

    roles = frozenset({"selector"})
    guards = True
    """What it keeps from a service would go there by default_service."""
    commands = (vpath,)

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.rules: list[tuple[re.Pattern[bytes], str]] = []
        self._searches: Searches | None = None
        """Made of the rules when a request asks for them."""

    def use(self, rules: list[tuple[re.Pattern[bytes], str]]) -> None:
        """Go by these."""
        self.rules = rules
        self._searches = None

    def _find(self, exchange: Exchange) -> tuple[re.Pattern[bytes], str] | None:
        """The first rule that a request's target matches; None if none does."""
        request = exchange.request
        searches = self._searches
        if searches is None:
            searches = self._searches = Searches([pattern for pattern, _ in self.rules])
        if not request.path.startswith(b"/"):
            place = searches.first(request.target)
        elif request.query:
            place = exchange.by_path(partial(_number, searches, request.query)) - 1
        else:
            place = searches.first(exchange.plain_path)
        return None if place < 0 else self.rules[place]

    @hook.select_service
    def by_path(self, exchange: Exchange) -> Verdict:
        found = self._find(exchange)
        if found is None:
            return Verdict.PASS
        service = self.world.services.get(found[1].lower())
        if service is None:
            exchange.error(500, b"The selected service does not exist.\n")
            return Verdict.TAKEN
        try:
            exchange.hand_to(service)
        except ConfigError:  # the log has it
            exchange.error(500, b"The selected service answers no requests.\n")
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        try:
            found = self._find(exchange)
        except TookTooLong:
            return Explanation(["500: a pattern took too long over this path"], takes=True)
        if found is None:
            return None
        pattern, name = found
        return Explanation([f"VPATH {pattern.pattern.decode('utf-8', 'replace')} = {name}"], name)

    def targets(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.rules)

    def carry(self) -> list[tuple[re.Pattern[bytes], str]]:
        return list(self.rules)

    def adopt(self, carried: list[tuple[re.Pattern[bytes], str]]) -> None:
        self.use(list(carried))

    def dumpconfig(self) -> tuple[str, ...]:
        return tuple(self._statement(pattern, name) for pattern, name in self.rules)

    def _statement(self, pattern: re.Pattern[bytes], name: str) -> str:
        service = self.world.services.get(name.lower())
        return f"VPATH {quoted_word(pattern.pattern.decode())} = {service.name if service is not None else name}"

    def drop_rule(self, statement: str) -> None:
        for at, (pattern, name) in enumerate(self.rules):
            if self._statement(pattern, name) == statement:
                self.use(self.rules[:at] + self.rules[at + 1 :])
                return
