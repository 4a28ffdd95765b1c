"""Which queues a request means.

    uri:GROUP      a group of poll_uri          query:NAME     ?q=a&q=b is two queues
    header:NAME    a header field               cookie:NAME    a cookie
    xml:PATH       elements of an XML body: user/chat, or user/@name for an attribute
    json:PATH      members of a JSON body: user.chats; a list is several

The first source of poll_queue that yields any wins. XML is read without entities, DTDs and anything from outside: a
body that holds them is refused.
"""

import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element

from pbal.api import Exchange

MOST_QUEUES = 32
LONGEST_KEY = 250
"""memcached's limit on a key, prefix included."""
KINDS = ("uri", "query", "header", "cookie", "xml", "json")

RESERVED = b".pbal."
"""What no queue's name begins with: pbal keeps keys of its own beside the queues."""
HERE = b".pbal.here."
"""Keys of presence: the prefix, this, and a hash of the queue's name."""

_ILLEGAL = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


class BadName(ValueError):
    """A request that names no queue, too many, or one that cannot be. The text is for the client."""


class Source:
    """One source of queue names."""

    __slots__ = ("argument", "kind")

    def __init__(self, text: str) -> None:
        """Raises: ValueError for a source that is none."""
        kind, colon, argument = text.partition(":")
        if kind not in KINDS or not colon or not argument:
            raise ValueError(f"expected KIND:NAME with a kind of {', '.join(KINDS)}, found {text!r}")
        if kind == "xml":
            root, below, _ = _parts(argument)
            try:
                Element("body").findall(f"./{below}" if below else ".")
                odd = argument.endswith("@") or (argument.startswith("/") and not root)
            except (SyntaxError, TypeError):  # TypeError: what ElementTree makes of a path such as 'a['
                odd = True
            if odd:
                raise ValueError(f"expected a path such as xml:user/chat or xml:user/@name, found {text!r}")
        self.kind, self.argument = kind, argument

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}"

    @property
    def needs_body(self) -> bool:
        """Whether it reads the body."""
        return self.kind in ("xml", "json")

    def names(self, exchange: Exchange, match: re.Match[bytes], read: Callable[[str], object]) -> Iterator[bytes]:
        """The queue names this source yields; `read` parses the body once, as "xml" or "json". Raises: BadName."""
        request = exchange.request
        wanted = self.argument.encode()
        if self.kind == "uri":
            value = match.groupdict().get(self.argument)
            if value is not None:
                yield unquote_to_bytes(value)
        elif self.kind == "query":
            yield from query_values(request.query, wanted)
        elif self.kind == "header":
            value = request.fields.get(wanted.lower())
            if value:
                yield from (part.strip(b" \t") for part in value.split(b",") if part.strip(b" \t"))
        elif self.kind == "cookie":
            yield from cookie_values(request.fields.get(b"cookie", b""), wanted)
        elif self.kind == "xml":
            root = read("xml")
            if isinstance(root, Element):
                yield from _from_xml(root, self.argument)
        else:
            yield from _from_json(read("json"), self.argument)


def query_values(query: bytes, wanted: bytes) -> Iterator[bytes]:
    """Values of a form-coded query, as octets. urllib's parse_qsl raises on any that is not ASCII once decoded."""
    for part in query.split(b"&"):
        name, _, value = part.replace(b"+", b" ").partition(b"=")
        if value and unquote_to_bytes(name) == wanted:
            yield unquote_to_bytes(value)


def cookie_values(header: bytes, wanted: bytes) -> Iterator[bytes]:
    """Values of one cookie in a Cookie field, as octets."""
    for part in header.split(b";"):
        name, _, value = part.strip(b" \t").partition(b"=")
        if name == wanted and value:
            yield unquote_to_bytes(value.strip(b'"'))


def _parts(path: str) -> tuple[str, str, str]:
    """A path as the name of the root (where it begins with a slash), the path below it, and an attribute."""
    path, at, attribute = path.partition("@")
    path = path.rstrip("/") if at else path
    root, _, below = path[1:].partition("/") if path.startswith("/") else ("", "", path)
    return root, below, attribute


def _from_xml(root: Element, path: str) -> Iterator[bytes]:
    """Text of elements, or of an attribute of elements, below (or, with a leading slash, from) the root."""
    first, below, attribute = _parts(path)
    if first and first != root.tag:
        return
    for element in root.findall(below) if below else [root]:
        text = element.get(attribute) if attribute else element.text
        if text and text.strip():
            yield text.strip().encode()


def _from_json(value: object, path: str) -> Iterator[bytes]:
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return
        value = value[step]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item:
            yield item.encode("utf-8", "surrogatepass")
        elif isinstance(item, int) and not isinstance(item, bool):
            yield str(item).encode()


def read_body(kind: str, body: bytes) -> object:
    """Parse a body as "xml" or "json". Raises: BadName."""
    if not body:
        return None
    if kind == "json":
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise BadName("the body is not JSON") from None
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        return fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise BadName("the body is not XML, or holds a DTD") from None


class _Bodies:
    """A request's body, parsed at most once in each way."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._parsed: dict[str, object] = {}
        self.unread: list[BadName] = []
        """Why a body could not be read: what one source cannot read (JSON, where it looks for XML) may be what the next one is for."""

    def read(self, kind: str) -> object:
        if kind not in self._parsed:
            try:
                self._parsed[kind] = read_body(kind, self._exchange.read_body())
            except BadName as error:
                self._parsed[kind] = None
                self.unread.append(error)
        return self._parsed[kind]


def queues_of(sources: tuple[Source, ...], exchange: Exchange, match: re.Match[bytes], prefix: bytes) -> tuple[bytes, ...]:
    """Store keys of the queues a request means, in order, each once. Raises: BadName."""
    bodies = _Bodies(exchange)
    for source in sources:
        found = tuple(dict.fromkeys(source.names(exchange, match, bodies.read)))
        if found:
            if len(found) > MOST_QUEUES:
                raise BadName(f"{len(found)} queues; at most {MOST_QUEUES} can be waited for")
            return tuple(key_for(name, prefix) for name in found)
    raise bodies.unread[0] if bodies.unread else BadName("the request names no queue")


def first_of(sources: tuple[Source, ...], exchange: Exchange, match: re.Match[bytes]) -> bytes:
    """The first value that the sources give; b"" if none does."""
    bodies = _Bodies(exchange)
    return next((value for source in sources for value in source.names(exchange, match, bodies.read)), b"")


def key_for(name: bytes, prefix: bytes) -> bytes:
    """The store key of a queue. Raises: BadName for one that memcached would refuse."""
    key = prefix + name
    try:
        text = key.decode()
    except UnicodeDecodeError:
        raise BadName("a queue name is UTF-8") from None
    if not name or len(key) > LONGEST_KEY or _ILLEGAL.search(text):
        raise BadName(f"a queue name has no spaces or control characters, and at most {LONGEST_KEY - len(prefix)} bytes")
    if name.startswith(RESERVED):
        raise BadName("queue names that begin with .pbal. are pbal's own")
    return key
