"""The access log: one line for each request, made when it has ended, in one of three forms or one of an operator's own.

    Account    what is remembered of a request for its line. An exchange is one; a parked client keeps one without the rest
    AccessLog  how the lines of a service look: field names to octets, and which of very many requests are written
    Target     where lines go. The loop puts them into it and goes on; a thread (observe/writer.py) takes them out

A line costs the loop about two microseconds: a row of octets, one `%`. It is made here and not in the thread, since there it would
cost as much, and hold the interpreter for thousands of lines at a time. Where no log is, no Account is kept but the exchange itself.

What strangers sent is quoted. In text, as nginx does it: `"`, `\\` and all that is no visible ASCII character is `\\xHH`. In JSON
everything is ASCII, and an octet that is no UTF-8 is shown as `\\xHH`. So a line is one line, whatever came, and JSON can be parsed.
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Final

DONE: Final = b"done"
CLIENT_LEFT: Final = b"client_left"
CLIENT_SLOW: Final = b"client_timeout"
BAD_REQUEST: Final = b"bad_request"
NODE_BROKE: Final = b"node_broke"
NODE_SLOW: Final = b"node_timeout"
NO_NODE: Final = b"no_node"
PLUGIN: Final = b"plugin"
SHUTDOWN: Final = b"shutdown"
KICKED: Final = b"kicked"
BROKE: Final = b"pbal_broke"
NO_ROOM: Final = b"no_room"
LIMITED: Final = b"limited"

ENDS: Final[dict[bytes, str]] = {
    DONE: "answered whole",
    CLIENT_LEFT: "the client left before its answer was whole",
    CLIENT_SLOW: "the client sent or took nothing for too long",
    BAD_REQUEST: "pbal refused the request as malformed or too large",
    NODE_BROKE: "the node refused the connection, broke it, or sent rubbish",
    NODE_SLOW: "the node was silent for too long",
    NO_NODE: "there was no node, or none was free in time",
    PLUGIN: "a plugin failed, or did not answer in time",
    SHUTDOWN: "pbal ended, or closed the connection for its own reasons",
    KICKED: "a plugin closed the connection, or the operator did",
    LIMITED: "a LIMIT of the service refused the request",
    BROKE: "pbal could not send the rest of an answer that it had begun",
    NO_ROOM: "pbal could not keep the request's body: the disk failed, or max_spool was reached",
}
"""Who ended a request, and how: the field `end`."""

HEAD: Final = b"head"
BODY: Final = b"body"
HOOKS: Final = b"hooks"
WAIT: Final = b"wait"
NODE: Final = b"node"
ANSWER: Final = b"answer"
PARKED: Final = b"parked"
TUNNEL: Final = b"tunnel"

PHASES: Final[dict[bytes, str]] = {
    HEAD: "the head of the request had not come",
    BODY: "its body had not come",
    HOOKS: "plugins had it",
    WAIT: "it waited for a node",
    NODE: "a node had it",
    ANSWER: "its answer went out, or had gone out",
    PARKED: "it was parked",
    TUNNEL: "it was a tunnel",
}
"""When a request ended: the field `phase`."""

REQUEST: Final = b"request"
POLL: Final = b"poll"
STREAM: Final = b"stream"
SOCKET: Final = b"socket"

KINDS: Final[dict[bytes, str]] = {
    REQUEST: "a request and its answer",
    TUNNEL: "an upgraded connection between the client and a node",
    POLL: "a poll, which waited for messages",
    STREAM: "a stream of server-sent events",
    SOCKET: "a WebSocket that pbal itself speaks",
}
"""What a request was: the field `kind`."""

WAITING_OCTETS: Final = 4 << 20
"""Octets of lines that may wait for the disk: seconds of the busiest day. Then lines are dropped, and counted."""
MOST_NOTES: Final = 16
LONGEST_NOTE: Final = 1000
"""Octets."""
SHARED: Final = 4096
"""User agents and the like that are kept once for all parked clients."""


class Account:
    """What is remembered of a request for its line. Times are of the clock that never steps; 0.0 is: it never came to that."""

    __slots__ = (
        "answered_at", "asked_at", "attempts", "began", "body_at", "cause", "kind", "node", "notes", "origin", "received", "sent",
        "sought_at", "started", "status",
    )  # fmt: skip

    def __init__(self, began: float, started: float) -> None:
        self.began = began
        """When the first octet of its head was seen."""
        self.started = started
        """When its head had come."""
        self.body_at = 0.0
        """When its body had come, where it has one."""
        self.sought_at = 0.0
        """Since when it waits: for a node, or parked for a message."""
        self.asked_at = 0.0
        """When a node was asked; the last one, where there were more."""
        self.answered_at = 0.0
        """When the head of the node's answer had come."""
        self.received = 0
        """Octets of body that came so far."""
        self.sent = 0
        """Octets of body that were written to the client."""
        self.status = 0
        """The status that was sent; 0 before."""
        self.attempts = 0
        """Times it was sent to a node."""
        self.node = ""
        """The node that it was sent to last, by name; "" where it was sent to none."""
        self.kind = REQUEST
        """REQUEST, TUNNEL; of what is parked POLL, STREAM, SOCKET."""
        self.cause = b""
        """Why it ended, one of ENDS; b"" where that is plain: answered whole, or the client left."""
        self.notes: dict[str, str] | None = None
        """What plugins said of it: see Exchange.note."""
        self.origin: tuple[bytes, ...] | None = None
        """Of a parked request: what its line says of the client and the head. An exchange has these themselves."""


class Target:
    """Where lines go. One for a file, however many services write to it."""

    __slots__ = ("bell", "dropped", "lines", "name", "put", "taken")

    def __init__(self, name: str, bell: "Bell") -> None:
        self.name = name
        self.bell = bell
        self.lines: deque[bytes] = deque()
        """The loop appends, the thread pops from the other end: neither needs a lock."""
        self.put = 0
        """Octets put in; the loop alone writes this."""
        self.taken = 0
        """Octets taken out; the thread alone writes this."""
        self.dropped = 0
        """Lines that found no room."""

    def write(self, line: bytes) -> None:
        """Hand over a line; it is dropped and counted where too much waits already."""
        if self.put - self.taken > WAITING_OCTETS:
            self.dropped += 1
            return
        self.put += len(line)
        self.lines.append(line)
        bell = self.bell
        if not bell.rung:
            bell.ring()


class Bell:
    """Wakes the thread. `rung` spares the loop the call for all lines but the first: the thread gathers for a moment."""

    __slots__ = ("_wake", "rung")

    def __init__(self, wake: object) -> None:
        self._wake = wake
        self.rung = False

    def ring(self) -> None:
        """There is something to write."""
        self.rung = True
        self._wake()  # type: ignore[operator]


# -- quoting -------------------------------------------------------------------------------------------------------------

_PLAIN: Final = bytes(octet for octet in range(0x20, 0x7F) if octet not in b'"\\')
"""What means the same in every form, and needs no quoting."""
_TEXT: Final = tuple(bytes([octet]) if octet in _PLAIN else b"\\x%02X" % octet for octet in range(256))
_NO_UTF8: Final = re.compile(r"[\udc80-\udcff]")


def quoted_text(octets: bytes) -> bytes:
    """As nginx writes what strangers sent: https://nginx.org/en/docs/http/ngx_http_log_module.html."""
    return octets if not octets.translate(None, _PLAIN) else b"".join([_TEXT[octet] for octet in octets])


def quoted_json(octets: bytes) -> bytes:
    """The inside of a JSON string (RFC 8259 section 7), all of it ASCII."""
    if not octets.translate(None, _PLAIN):
        return octets
    text = octets.decode("utf-8", "surrogateescape")
    text = _NO_UTF8.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return json.dumps(text)[1:-1].encode("ascii")


# -- what can be in a line -----------------------------------------------------------------------------------------------

_ROW: Final = (
    "date", "milliseconds", "local", "epoch", "service", "kind", "status", "in", "out", "node", "attempts", "end", "phase",
    "user", "notes", "head", "body", "wait", "first", "whole",
)  # fmt: skip
_ORIGIN: Final = ("client", "peer", "method", "target", "path", "id", "host", "protocol", "referer", "agent", "tls", "trace")
"""The columns of a row: what the end knows, and what came with the request. Columns of `http_...` and `note_...` follow."""
_TIMES: Final = frozenset({"head", "body", "wait", "first", "whole"})
ORIGINS: Final = len(_ORIGIN)
_COLUMNS: Final = _ROW + _ORIGIN
_NOTES: Final = _ROW.index("notes")
_NOT_IN_JSON: Final = ("time_local", "msec", "peer", "path", "request")


class Field:
    """A field of a line."""

    __slots__ = ("columns", "form", "name", "number", "summary")

    def __init__(self, name: str, summary: str, form: str = "", columns: tuple[str, ...] = (), number: bool = False) -> None:
        self.name, self.summary, self.number = name, summary, number
        self.form = form or "%b"
        self.columns = columns or (name,)


FIELDS: Final[dict[str, Field]] = {
    field.name: field
    for field in (
        Field("time", "when the request ended, as 2026-11-28T08:55:20.123Z", "%b.%bZ", ("date", "milliseconds")),
        Field("time_local", "the same, as 28/Nov/2026:08:55:20 +0000", "%b", ("local",)),
        Field("msec", "the same, in seconds since 1970", "%b.%b", ("epoch", "milliseconds"), number=True),
        Field("service", "the service that answered"),
        Field("kind", "what it was, as below"),
        Field("client", "the client's address; a trusted proxy names it"),
        Field("peer", "the address at the other end of the connection"),
        Field("user", "who the client is, where a plugin knows"),
        Field("method", "the method"),
        Field("target", "the target of the request, without the query where access_log_query is off"),
        Field("path", "the path of it"),
        Field("protocol", "HTTP/1.0 or HTTP/1.1"),
        Field("request", "method, target and protocol", "%b %b %b", ("method", "target", "protocol")),
        Field("host", "the host of the request"),
        Field("status", "the status that was sent; 0 if there was no answer", number=True),
        Field("octets_in", "octets of the request's body that came", "%b", ("in",), number=True),
        Field("octets_out", "octets of the answer's body that were written", "%b", ("out",), number=True),
        Field("referer", "the field Referer"),
        Field("agent", "the field User-Agent"),
        Field("node", "the node that was asked last"),
        Field("attempts", "times that the request was sent to a node", number=True),
        Field("head", "seconds in which the head of the request came, from the first octet that pbal read to the last", number=True),
        Field("body", "seconds in which its body came", number=True),
        Field("wait", "seconds that it waited for a node, or parked for a message", number=True),
        Field("first", "seconds from there until the head of the node's answer had come; null or - if none came", number=True),
        Field("whole", "seconds from the head of the request to the end of its answer", number=True),
        Field("end", "who ended it and how, as below"),
        Field("phase", "when it ended, as below"),
        Field("tls", "the protocol of TLS"),
        Field("id", "the request's id, where request_id is on"),
        Field("trace", "the trace that traceparent names"),
    )
}
"""The fields of an operator's own form. JSON has them in the order of the columns."""

_NAME: Final = r"[a-z][a-z0-9_]*"
_VARIABLE: Final = re.compile(r"\$\$?(?:(\w+)|\{(\w+)\})", re.ASCII)
_FREE: Final = re.compile(r"(http|note)_(" + _NAME + r")", re.ASCII)
NOTE_NAME: Final = re.compile(_NAME, re.ASCII)

COMMON: Final = '$client - $user [$time_local] "$request" $status $octets_out'
COMBINED: Final = COMMON + ' "$referer" "$agent"'
NAMED: Final = {"common": COMMON, "combined": COMBINED}


def _pieces(form: str) -> list[tuple[str, str]]:
    """(text, field) pairs of an operator's form; the last has no field. Raises: ValueError for a field that is none."""
    found: list[tuple[str, str]] = []
    place = 0
    for match in _VARIABLE.finditer(form):
        name = match[1] or match[2]
        if name not in FIELDS and not _FREE.fullmatch(name):
            raise ValueError(f"expected a field such as $$client, $$status, $$http_cookie or $$note_queue, found '$${name}'")
        found.append((form[place : match.start()], name))
        place = match.end()
    found.append((form[place:], ""))
    return found


def check_form(form: str) -> None:
    """Raises: ValueError for a form that lines cannot have; it is for the operator."""
    if form == "json" or form in NAMED:
        return
    pieces = _pieces(form)
    if len(pieces) == 1:
        raise ValueError(f"expected common, combined, json, or a text with fields such as '$$client $$status', found {form!r}")
    if not all(text.replace("\t", " ").isprintable() for text, _ in pieces):
        raise ValueError("a form of lines cannot hold control characters")


class AccessLog:
    """How the lines of a service look, and where they go."""

    __slots__ = (
        "_absent", "_count", "_date", "_epoch", "_every", "_http", "_json", "_literal", "_local", "_notes", "_pick", "_query", "_second",
        "_timed", "target",
    )  # fmt: skip

    def __init__(self, target: Target, form: str, every: int = 1, query: bool = True) -> None:
        """`every`: one request of so many is written, and all that ended badly. Raises: ValueError as check_form does."""
        self.target = target
        self._every = every
        self._count = 0
        self._query = query
        self._json = form == "json"
        self._absent = b"" if self._json else b"-"
        self._second = -1
        self._date = self._local = self._epoch = b""
        self._http: list[bytes] = []
        self._notes: list[str] = []
        pieces: list[tuple[str, str]] = []
        last = ""
        for text, name in self._json_pieces() if self._json else _pieces(NAMED.get(form, form)):
            field = FIELDS.get(name)
            words = (field.form if field is not None else "%b").split("%b") if name else [""]
            for word, column in zip(words, field.columns if field is not None else (name,) if name else (), strict=False):
                pieces.append((last + text + word, column))
                last = text = ""
            last += text + words[-1]
            self._need(name)
        self._pick: Callable[[tuple[bytes, ...]], object] | None = None
        self._literal = b""
        self._timed = not _TIMES.isdisjoint(column for _, column in pieces)
        self._lay_out(pieces, last)

    def _need(self, name: str) -> None:
        """Have a column for a field of the request, or what a plugin says."""
        kind, _, rest = name.partition("_")
        if name in FIELDS or kind not in ("http", "note"):
            return
        if kind == "note":
            self._notes.append(rest)
        else:
            self._http.append(rest.replace("_", "-").encode())

    def _lay_out(self, pieces: list[tuple[str, str]], last: str) -> None:
        """Make the literal that a row is put into: each piece is a text and the column after it. `last` ends the line.

        Where the columns come in the order of the row, as in JSON, those between are skipped by `%.0b`, and nothing has to be picked.
        """
        columns = [*_ROW, *[f"note_{note}" for note in self._notes], *_ORIGIN]
        columns += [f"http_{name.decode().replace('-', '_')}" for name in self._http]
        places = [columns.index(column) for _, column in pieces]
        ordered = len(places) > len(columns) // 2 and places == sorted(set(places))
        literal = b""
        at = 0
        for (text, _), place in zip(pieces, places, strict=True):
            if ordered:
                literal += b"%.0b" * (place - at)
                at = place + 1
            literal += text.encode().replace(b"%", b"%%") + b"%b"
        if ordered:
            literal += b"%.0b" * (len(columns) - at)
        else:
            self._pick = itemgetter(*places)  # of one column: octets, which `%` takes as well
        self._literal = literal + last.encode().replace(b"%", b"%%") + b"\n"

    def _json_pieces(self) -> list[tuple[str, str]]:
        """All fields but those that are said by others; and what plugins say, which begins with its comma."""
        fields = [(_COLUMNS.index(field.columns[0]), field) for field in FIELDS.values() if field.name not in _NOT_IN_JSON]
        found: list[tuple[str, str]] = []
        text = "{"
        for place, field in sorted(fields, key=itemgetter(0)):
            if place > _NOTES and not any(name == "notes" for _, name in found):
                found.append((text[:-1], "notes"))
                text = ","
            mark = "" if field.number else '"'
            found.append((f'{text}"{field.name}":{mark}', field.name))
            text = f"{mark},"
        return [*found, (text[:-1] + "}", "")]

    def wants(self, account: Account, whole: bool) -> bool:
        """Whether the line is to be written. Of those that ended badly all are."""
        if self._every > 1 and whole and account.status < 500 and not account.cause:
            self._count += 1
            if self._count < self._every:
                return False
            self._count = 0
        return True

    def origin(
        self, client: bytes, peer: bytes, method: bytes, target: bytes, path: bytes, protocol: bytes, host: bytes,
        fields: dict[bytes, bytes], tls: str, number: bytes, trace: bytes,
    ) -> tuple[bytes, ...]:  # fmt: skip
        """What a line says of the client and the head, as it came. Without queries, Referer has none: it is that of the page before."""
        referer = fields.get(b"referer", b"")
        if not self._query:
            target, referer = path, referer.partition(b"?")[0]
        found: tuple[bytes, ...] = (
            client, peer, method, target, path, number, host, protocol,
            referer, fields.get(b"user-agent", b""), tls.encode() if tls else b"", trace,
        )  # fmt: skip
        if self._http:
            found += tuple([referer if name == b"referer" else fields.get(name, b"") for name in self._http])
        return found

    def write(
        self, account: Account, origin: tuple[bytes, ...], service: bytes, end: bytes, phase: bytes, now: float, epoch: float
    ) -> None:
        """Make the line of a request and hand it over. `now` and `epoch` are the clock's."""
        absent, json_ = self._absent, self._json
        if len(origin) != ORIGINS + len(self._http):  # it was parked while the form was another
            origin = origin[:ORIGINS] + (b"",) * len(self._http)
        if b"".join(origin).translate(None, _PLAIN):
            origin = tuple([quoted_json(each) if json_ else quoted_text(each) for each in origin])
        if absent and b"" in origin:
            origin = tuple([each or absent for each in origin])
        second = int(epoch)
        if second != self._second:
            self._new_second(second)
        user = absent
        notes = b""
        if account.notes is not None:
            user, notes = self._of_notes(account.notes)
        row: tuple[bytes, ...] = (
            self._date, _MILLISECONDS[int((epoch - second) * 1000)], self._local, self._epoch, service, account.kind,
            _number(account.status), _number(account.received), _number(account.sent), account.node.encode() or absent,
            _number(account.attempts), end, phase, user, notes,
        )  # fmt: skip
        row += self._times(account, now) if self._timed else _NO_TIMES
        if self._notes:
            row += self._said(account.notes)
        row += origin
        pick = self._pick
        self.target.write(self._literal % (row if pick is None else pick(row)))

    def _times(self, account: Account, now: float) -> tuple[bytes, ...]:
        """The columns head, body, wait, first, whole."""
        started, sought, asked, answered = account.started, account.sought_at, account.asked_at, account.answered_at
        return (
            _seconds(started - account.began) if account.began != started else _ZERO,
            _seconds(account.body_at - started) if account.body_at else _ZERO,
            _seconds((asked or now) - sought) if sought else _ZERO,
            _seconds(answered - asked) if answered else b"null" if self._json else b"-",
            _seconds(now - started),
        )

    def _new_second(self, second: int) -> None:
        self._second = second
        self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        local = time.localtime(second)
        month = _MONTHS[local.tm_mon - 1]
        self._local = time.strftime(f"%d/{month}/%Y:%H:%M:%S %z", local).encode()
        self._epoch = b"%d" % second

    def _of_notes(self, notes: dict[str, str]) -> tuple[bytes, bytes]:
        """The user, and in JSON all else that plugins said."""
        user = notes.get("user", "").encode("utf-8", "surrogateescape")
        if not self._json:
            return quoted_text(user) or b"-", b""
        others = [
            b',"%b":"%b"' % (name.encode(), quoted_json(text.encode("utf-8", "surrogateescape")))
            for name, text in notes.items() if name != "user"
        ]  # fmt: skip
        return quoted_json(user), b"".join(others)

    def _said(self, notes: dict[str, str] | None) -> tuple[bytes, ...]:
        """The columns of `$note_...`."""
        said = notes or {}
        return tuple([quoted_text(said.get(name, "").encode("utf-8", "surrogateescape")) or b"-" for name in self._notes])


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""Not strftime's, which speaks the language of the environment."""
_ZERO: Final = b"0.000000"
_NO_TIMES: Final = (_ZERO,) * 5
_MILLISECONDS: Final = [b"%03d" % number for number in range(1000)]
_FRACTIONS: Final = [b"0.%03d" % number for number in range(1000)]
_NUMBERS: Final = [b"%d" % number for number in range(1024)]

_HOST: Final = 6
"""Where the columns begin that many clients share."""
_shared: dict[bytes, bytes] = {}


def _number(number: int) -> bytes:
    return _NUMBERS[number] if 0 <= number < 1024 else b"%d" % number


def _seconds(span: float) -> bytes:
    """With microseconds. Most take less than a second, and are put together from tables: a third of the time of `%.6f`."""
    if span <= 0.0:
        return _ZERO
    if span >= 1.0:
        return b"%.6f" % span
    microseconds = int(span * 1000000.0)
    return _FRACTIONS[microseconds // 1000] + _MILLISECONDS[microseconds % 1000]


def shared(origin: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same, with its user agent and other such things kept once for all that are parked."""
    if len(_shared) > SHARED:
        _shared.clear()
    kept = [_shared.setdefault(octets, octets) if len(octets) < 512 else octets for octets in origin[_HOST:ORIGINS]]
    return (*origin[:_HOST], *kept, *origin[ORIGINS:])
