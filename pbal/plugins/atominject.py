r"""atominject: what is PUT to a service is published to the readers of the plugin atomstream.

    LOAD atomstream
    LOAD atominject
    CREATE SERVICE publishers
      SET role    = web_server
      SET listen  = 127.0.0.1:8081
      SET plugins = atominject
    ENABLE publishers

A PUT to any path is taken, with enable_put or without it, and no file is written: its body is one item, published under that path, and the
answer is 200. What a reader is sent is one document of XML that never ends, so an item has to be well-formed XML in UTF-8 (as plain text
is), or it is answered 400; its XML declaration is taken off. Whoever reaches the service can publish: `listen` where only publishers come,
or put accesscontrol before it in `plugins`.

Source: Perlbal's AtomInject. differs: an item that would break the document of its readers is refused, and one that is too large, or comes
while much is still going round; where no service has atomstream, the answer is 503, and not 200.
"""

import re
import xml.parsers.expat
from collections.abc import Iterator
from typing import Final, Protocol, cast

from pbal.api import SIZE, Counter, Exchange, Explanation, Plugin, Tunable, Verdict, hook

DECLARATION: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml\s[^>]*\?>)?")
DEEPEST: Final = 100
"""Segments of a path."""


class Readers(Protocol):
    """The plugin atomstream of a service."""

    def busy(self) -> bool: ...
    def publish(self, path: bytes, data: bytes) -> None: ...


class AtomInject(Plugin):
    """Takes the items of one service."""

    roles = frozenset({"web_server"})
    tunables = (
        Tunable("atom_inject_max_item", SIZE, default="256k", minimum="1", unit="bytes", source="pbal",
                summary="The largest item. A larger one is answered 413."),
    )  # fmt: skip
    counters = (Counter("atom_items_refused", "Items that were not published: no well-formed XML, nobody to give them to, or too many."),)

    @hook.start_http_request
    def bound(self, exchange: Exchange) -> Verdict:
        if exchange.method == b"PUT":
            exchange.body_limit = self.service["atom_inject_max_item"]
        return Verdict.PASS

    @hook.handle_put
    def publish(self, exchange: Exchange) -> Verdict:
        path, readers = exchange.plain_path, list(self._readers())
        if path.count(b"/") > DEEPEST:
            return self._refuse(exchange, 400, b"The path has more than %d segments.\n" % DEEPEST)
        said = exchange.read_body()
        try:
            item = well_formed(said)
        except ValueError as error:
            return self._refuse(exchange, 400, b"The item is not well-formed XML: %b.\n" % str(error).encode())
        if not readers:
            return self._refuse(exchange, 503, b"No service has the plugin atomstream.\n")
        if any(each.busy() for each in readers):
            return self._refuse(exchange, 503, b"Many items are still going round.\n", [(b"Retry-After", b"1")])
        for each in readers:
            each.publish(path, item)
        exchange.respond(200, [(b"Content-Type", b"text/plain")], b"Published.\n")
        return Verdict.TAKEN

    def _readers(self) -> Iterator[Readers]:
        for _, plugin in self.world.instances("atomstream"):
            yield cast(Readers, plugin)

    def _refuse(self, exchange: Exchange, status: int, text: bytes, fields: list[tuple[bytes, bytes]] | None = None) -> Verdict:
        self.counts["atom_items_refused"] += 1
        exchange.error(status, text, fields or [])
        return Verdict.TAKEN

    def explain(self, exchange: Exchange) -> Explanation | None:
        """See Plugin."""
        if exchange.method != b"PUT":
            return None
        return Explanation([f"an item, published as {exchange.plain_path.decode('utf-8', 'replace')}"], takes=True)


def well_formed(data: bytes) -> bytes:
    """An item as it can stand in a document, with an end of line behind it. Raises: ValueError with the place.

    It is read inside of an element, where XML has no DOCTYPE: there are no entities to expand.
    """
    start = DECLARATION.match(data)
    item = data[start.end() if start is not None else 0 :]
    parser = xml.parsers.expat.ParserCreate("utf-8")
    try:
        parser.Parse(b"<i>", False)
        parser.Parse(item, False)
        parser.Parse(b"</i>", True)
    except xml.parsers.expat.ExpatError as error:
        line = error.lineno
        raise ValueError(f"{xml.parsers.expat.ErrorString(error.code)}, line {line}") from None
    return item if item.endswith(b"\n") else item + b"\n"
