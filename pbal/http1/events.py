"""What a reader produces: heads, pieces of body (plain bytes), the end of a body, and refusals."""

from typing import Final

from pbal.http1.lines import Line

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
"""Values of `.framing`. 0 and above is a length in octets (RFC 9112 section 6.3)."""


class Malformed(Exception):
    """A message that cannot be read. `status` is what a client is told."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.said = b""
        """Of a head that was refused: its beginning, for the log."""
        self.place = -1
        """Of a head that was refused: which octet is to blame, from 0; -1 if none is."""
        self.octet = -1
        """Which one that is."""


class BadRequest(Malformed):
    """The client's fault: 400, or the more telling 4xx/5xx."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason, status)


class BadResponse(Malformed):
    """The backend's fault."""

    def __init__(self, reason: str, status: int = 502) -> None:
        super().__init__(reason, status)


class EndOfBody:
    """The body that was being read is complete."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "END"


END: Final = EndOfBody()


_NOTHING: Final[frozenset[bytes]] = frozenset()


class Head:
    """What requests and responses share. Readers may give out the same head twice: it is not to be changed."""

    __slots__ = (
        "_headers", "block", "fields", "forwarded", "framing", "keep_alive", "lines", "minor", "of_hop", "ours", "touched", "underscores",
    )  # fmt: skip

    minor: int
    """0 for HTTP/1.0, 1 for HTTP/1.1 and any later HTTP/1."""
    block: bytes
    """The header lines as sent, each ended by CRLF, without the empty line."""
    lines: list[Line] | None
    """The same, one by one; None of a head that was not read as it is."""
    fields: dict[bytes, bytes]
    """Values by lower-case name. Values of a repeated field are joined with b", " (cookies with b"; ")."""
    framing: int
    """Length of the body in bytes, or CHUNKED, or UNTIL_CLOSE."""
    keep_alive: bool
    """Whether the connection may serve another request (RFC 9112 section 9.3)."""
    of_hop: bool
    """Whether one of `lines` is of this hop."""
    forwarded: tuple[frozenset[bytes], bytes] | None
    """What headers.forwardable_block made of it last, and for which fields to drop."""
    underscores: bool
    """Whether a field's name has a `_`, which many applications read as `-`."""
    ours: frozenset[bytes]
    """Names, lower case and with `-` for `_`, of fields that a plugin or a HEADER statement set: the peer has no say in them."""
    touched: frozenset[bytes]
    """Those, and the names of fields that a plugin or a HEADER statement took away: a trailer section must not bring them back."""

    def __init__(self) -> None:
        self.forwarded = self.lines = None
        self._headers: list[tuple[bytes, bytes]] | None = None
        self.ours = self.touched = _NOTHING
        self.of_hop = self.underscores = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields as sent, in order and in their case. Values have no spaces at their ends."""
        headers = self._headers
        if headers is None:
            headers = self._headers = [(line.name.said, line.value) for line in self.lines or ()]
        return headers

    @headers.setter
    def headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._headers = headers


def canonical(name: bytes) -> bytes:
    """A field's name as a CGI-like application tells it apart: lower case, `_` read as `-`."""
    return name.lower().replace(b"_", b"-")


class RequestHead(Head):
    """A request line and its header fields."""

    __slots__ = ("expect_continue", "host", "method", "path", "query", "target", "upgrade")

    method: bytes
    target: bytes
    """The request target, exactly as sent."""
    path: bytes
    """The path, not decoded. For a target in absolute form, its path; for asterisk form, b"*"; for CONNECT, b""."""
    query: bytes
    """The query without the question mark; b"" if there is none."""
    host: bytes
    """The host as sent. In absolute form, the target's host replaces Host (RFC 9112 section 3.2.2)."""
    expect_continue: bool
    upgrade: bytes
    """The protocols that Upgrade asks for, or b"". pbal does not pass on an h2c upgrade, which would hide requests from it."""

    def without_underscores(self) -> "RequestHead":
        """A copy without the fields whose names hold `_`, but for those set here."""
        ours = self.ours
        other = self._copy([field for field in self.headers if b"_" not in field[0] or canonical(field[0]) in ours])
        other.fields = {key: text for key, text in self.fields.items() if b"_" not in key or canonical(key) in ours}
        other.underscores = b"_" in b"".join(other.fields)
        return other

    def altered(self, name: bytes, value: bytes | None) -> "RequestHead":
        """A copy with one field in place of all of that name; None: without it. The framing stays as it was read."""
        wanted = canonical(name)
        other = self._copy([field for field in self.headers if canonical(field[0]) != wanted])
        other.fields = {key: text for key, text in self.fields.items() if canonical(key) != wanted}
        other.touched = self.touched | {wanted}
        if wanted == b"host":
            other.host = value or b""
        if value is None:
            other.ours = self.ours - {wanted}
        else:
            other.ours = self.ours | {wanted}
            other.headers.append((name, value))
            other.fields[name.lower()] = value
            other.block += b"%b: %b\r\n" % (name, value)
            other.underscores = other.underscores or b"_" in name
        return other

    def changed(self, removed: frozenset[bytes], added: list[tuple[bytes, bytes]]) -> "RequestHead":
        """A copy without the fields of some canonical names, and with others. What replaces is set here; what stands beside is not."""
        other = self._copy([*(field for field in self.headers if canonical(field[0]) not in removed), *added])
        fields = {key: text for key, text in self.fields.items() if canonical(key) not in removed}
        ours = set(self.ours - removed)
        for name, value in added:
            key, wanted = name.lower(), canonical(name)
            if wanted in removed or not any(canonical(said) == wanted for said in fields):
                ours.add(wanted)
            between = b"; " if key == b"cookie" else b", "
            fields[key] = fields[key] + between + value if key in fields else value
            if wanted == b"host":
                other.host = value
        other.fields = fields
        other.ours = frozenset(ours)
        other.touched = self.touched | removed | ours
        other.underscores = b"_" in b"".join(fields)
        return other

    def _copy(self, headers: list[tuple[bytes, bytes]]) -> "RequestHead":
        """The same request with other fields; `fields` is left to be filled."""
        other = RequestHead()
        other.method, other.target, other.path, other.query, other.host = self.method, self.target, self.path, self.query, self.host
        other.minor, other.framing, other.keep_alive, other.underscores = self.minor, self.framing, self.keep_alive, self.underscores
        other.expect_continue, other.upgrade = self.expect_continue, self.upgrade
        other.ours, other.touched = self.ours, self.touched
        other.headers = headers
        other.block = b"".join([b"%b: %b\r\n" % field for field in headers])
        return other

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target!r} framing={self.framing}>"


class ResponseHead(Head):
    """A status line and its header fields."""

    __slots__ = ("kept_for", "reason", "status", "upgrade")

    status: int
    reason: bytes
    upgrade: bool
    """Status 101: what follows is another protocol."""
    kept_for: int
    """Seconds after which the node closes the connection if nothing more comes (Keep-Alive: timeout=N); 0: it did not say."""

    @classmethod
    def made(cls, status: int, headers: list[tuple[bytes, bytes]]) -> "ResponseHead":
        """A head of our own, for plugins to look at and change."""
        head = cls()
        head.status, head.reason, head.minor, head.headers = status, b"", 1, headers
        head.fields = {name.lower(): value for name, value in headers}
        head.block, head.framing, head.keep_alive, head.upgrade, head.kept_for = b"", 0, True, False, 0
        head.underscores = b"_" in b"".join(head.fields)
        return head

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} framing={self.framing}>"
