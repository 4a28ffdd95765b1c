"""One request and its response, as plugins and roles see it: it owns its answer, and ends once.

    NEW        its hooks run, or its body is being collected for them
    SERVED     a role has it: a relay, a file
    TAKEN      a plugin has it, and owes an answer within taken_timeout
    ANSWERING  a head went out, the body follows
    PARKED     a long poll: the connection waits under a record, the exchange is let go of
    ENDED      answered whole, cut off, or its client has gone

What is not an edge of EDGES raises AnswerRefused for whoever tried, is counted, and never reaches the wire: a second
response, one after the client was told 504, one to a request that was parked. An answer goes to `exchange.stream` only while that
stream serves this very exchange, so a late one cannot reach another request.

`ended` runs once, whatever happened, and is where slots, the list of taken exchanges and the counters are given back. A
parked poll ends on its connection, which kept what an answer needs.

The stream is an abstract base class and not a Protocol: a compiled call through it costs 2 ns instead of 35.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import get_ident
from types import CoroutineType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from pbal.config.spec import Standing
from pbal.http1.changes import Changes
from pbal.http1.encoder import FRAMING_FIELDS, Fields, IllegalField, render_fields
from pbal.http1.events import RequestHead, ResponseHead, canonical
from pbal.http1.paths import members, plain
from pbal.http1.pieces import Pieces
from pbal.http1.reader import is_host
from pbal.model.balance import Member
from pbal.model.bound import Bound
from pbal.model.calling import Failed, call, handed, raised, tell
from pbal.model.calling import place as place_of
from pbal.model.collected import CollectedBody
from pbal.model.deliveries import PATIENCE, OnLost
from pbal.model.errors import AnswerRefused, ConfigError
from pbal.model.faults import describe, guarded, shown
from pbal.model.faults import tell as tell_fault
from pbal.model.pages import error_page
from pbal.model.parking import Parked, Waiting
from pbal.model.pool import Node
from pbal.model.searching import found
from pbal.model.secured import Secured
from pbal.model.sink import Sink
from pbal.model.slots import Slot
from pbal.model.tracing import begun, is_id, trace_of
from pbal.observe.access import (
    ANSWER,
    BODY,
    CLIENT_LEFT,
    DONE,
    FIELDS,
    HOOKS,
    LONGEST_NOTE,
    MOST_NOTES,
    NODE,
    NOTE_NAME,
    PLUGIN,
    POLL,
    TUNNEL,
    WAIT,
    AccessLog,
    Account,
    quoted_text,
    shared,
)
from pbal.observe.histogram import bucket
from pbal.observe.recent import BADLY, Trouble
from pbal.observe.tracer import Tracer

if TYPE_CHECKING:
    from pbal.model.service import Service

NEW: Final = "new"
SERVED: Final = "served"
TAKEN: Final = "taken"
ANSWERING: Final = "answering"
PARKED: Final = "parked"
ENDED: Final = "ended"
CHOOSING: Final = "being chosen for"
"""While hooks choose something for it: they can do nothing else with it."""

EDGES: Final[dict[str, frozenset[str]]] = {
    NEW: frozenset({NEW, SERVED, TAKEN, ANSWERING, PARKED, ENDED}),
    SERVED: frozenset({ANSWERING, ENDED}),
    TAKEN: frozenset({NEW, SERVED, ANSWERING, PARKED, ENDED}),
    ANSWERING: frozenset({ENDED}),
    PARKED: frozenset({ENDED}),
    ENDED: frozenset(),
    CHOOSING: frozenset(),
}
"""From a taken exchange back to NEW: a plugin that had to wait hands it to a service."""


MOST_RESUMED: Final = 100
"""Times that plugins may give a request back to the same service. Each that has to wait does so once, or twice where there is a body."""

MOST_HANDED: Final = 20
"""Times a request is handed on; more is a loop. Selectors and X-REPROXY-SERVICE have bounds of their own, of 8 each."""

UNSENDABLE: Final = b"The answer could not be sent.\n"
"""The body of the 500 that stands for it."""


class Stream(Waiting):
    """What an exchange is answered on: verbs, not a socket. HTTP/1 has one at a time on a connection."""

    tls: Secured | None
    """What is known of the connection where it is under TLS."""

    @property
    @abstractmethod
    def half_closed(self) -> bool:
        """Whether the peer has sent its last octet."""

    @property
    def fd(self) -> int:
        """The descriptor of the client's connection, for who looks; -1 where there is none of its own."""
        return -1

    def ends(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """Address and port of the peer, and those that it connected to; None for what is not known, or has none."""
        return None, None

    @property
    def port(self) -> int:
        """The port that the client connected to; 0 where there is none."""
        return 0

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether the peer takes slower than we write: client_drained() will follow."""

    def hold(self, octets: int) -> None:
        """Call client_full() when so many octets wait for the peer; 0: as the service says. One without a buffer has nothing to hold."""

    @abstractmethod
    def respond(self, exchange: "Exchange", status: int, fields: Fields, body: bytes, on_lost: OnLost | None, patience: float) -> bool:
        """Answer whole and end the exchange. False: the peer has gone, nothing was sent. Raises: IllegalField, nothing was sent.

        `on_lost` is called at most once, later, if the connection ends before the peer has acknowledged it: model/deliveries.py.
        """

    @abstractmethod
    def interim(self, head: ResponseHead, block: bytes) -> None:
        """Pass on a 1xx; nothing for a client of HTTP/1.0."""

    @abstractmethod
    def start(self, exchange: "Exchange", head: ResponseHead, block: bytes, more: bytes) -> None:
        """Begin a response whose body follows. It goes out with what is written next. `block` and `more` are header lines."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Octets of the body that start() began, or of a tunnel."""

    def write_from(self, buffer: memoryview) -> bool:
        """As write(), of octets in a buffer of the caller's. False: it is held until they have gone out, and is not to be changed."""
        self.write(bytes(buffer))
        return True

    def write_file(self, fd: int, at: int, size: int) -> int:
        """As write(), of octets of a file that nobody changes. How many were sent at once: others are the caller's to write.

        -1: this stream sends none so, as where TLS or compression make other octets of them.
        """
        return -1

    @abstractmethod
    def end(self, exchange: "Exchange", data: bytes, trailer: bytes = b"") -> None:
        """The last octets of the body: the exchange ends. `trailer`: lines of a trailer section, for who gets chunks."""

    @abstractmethod
    def cut(self, exchange: "Exchange") -> None:
        """The rest of the body will not come: end so that the response looks truncated."""

    @abstractmethod
    def tunnel(self, exchange: "Exchange", head: ResponseHead, block: bytes, protocol: bytes, data: bytes) -> bytes:
        """Send 101 and `data`; octets go both ways from here. What the client sent already."""

    @abstractmethod
    def write_eof(self) -> None:
        """In a tunnel: no more octets for the client."""

    @abstractmethod
    def close(self, exchange: "Exchange") -> None:
        """Close after what was written has gone out; the exchange ends."""

    @abstractmethod
    def continue_body(self) -> None:
        """Say 100 Continue, if the client waits for it (RFC 9110 section 10.1.1)."""

    @abstractmethod
    def pause_body(self) -> None:
        """Read no more of the body: whoever takes it is full, or not there yet."""

    @abstractmethod
    def resume_body(self) -> None:
        """Read on."""

    @abstractmethod
    def park(self, exchange: "Exchange", record: Parked) -> Waiting:
        """Keep the client without an exchange, until Waiting.answer(), Waiting.kick() or record.gone()."""

    @abstractmethod
    def withdraw(self, exchange: "Exchange", record: Parked) -> bool:
        """Take a park() back: respond() to `exchange` is possible again. False: `record` is not parked any more."""


class Exchange(Account):
    """One request, from its head to the end of its answer."""

    __slots__ = (
        "_address", "_body", "_body_limit", "_number", "_passed", "_shown", "_told", "_trace", "asked", "body_clock", "body_complete",
        "body_most", "client_end", "coded", "collecting", "handed", "high", "home", "hops", "judged", "outer", "owner", "record", "request",
        "resumed", "rewritten", "service", "sink", "slot", "stage", "stream", "trailer", "trouble", "unjudged",
    )  # fmt: skip

    def __init__(self, stream: Stream, service: "Service", request: RequestHead, now: float) -> None:
        super().__init__(now, now)
        self.stream = stream
        self.home = service
        """The service whose listener accepted the connection."""
        self.service = service
        self.request = request
        self.sink: Sink | None = None
        self.body_complete = request.framing == 0
        self.slot: Slot | None = None
        """Places that it holds of limits on how many there may be at once. Given back when it ends or is parked."""
        self.coded: Pieces | None = None
        """Its answer is compressed as it goes out: see net/pressing.py."""
        self.trailer = b""
        """The trailer section of a body that came in chunks, as lines: see http1/headers.py, trailer_block."""
        self._body_limit: int | None = None
        self.body_most = 0
        """Most octets of its body by the word of selectors that handed it on, beside `body_limit`; 0: they said nothing."""
        self.body_clock = 0.0
        """Since when its body comes (clock time); while it is paused, how long it came; 0 before its first octet."""
        self.high = False
        """It waited for a connection to a node in the class that is served first."""
        self.asked: Node | None = None
        """The node that has it, or had it last; None while another one is sought."""
        self.trouble: Trouble | None = None
        """What went wrong on its way; whoever sees it, says it."""
        self.client_end = 0.0
        """When its client had sent its end, while nothing was answered yet (clock time); 0 before."""
        self.hops = 0
        """Selectors passed through."""
        self.handed = 0
        """How often it was handed on."""
        self.resumed = 0
        """How often a plugin of this service that had taken it gave it back (go_on)."""
        self.collecting = False
        """Its body comes, and then its hooks run again (read_first)."""
        self.rewritten = b""
        """The target that nodes are sent in place of the request's (REWRITE); b"" where it is the same."""
        self.outer: Changes | None = None
        """What services that handed it on make of the fields of its answer (HEADER RESPONSE)."""
        self.unjudged = False
        """Whether it took too long to find out which rules hold for it: it is refused, by those alone that hold always."""
        self.judged: list[tuple[Callable[[bytes], int], int, Service]] | None = None
        """How rules looked at its path, what they found, and whose they are: see by_path(). None where its path alone is what it is for."""
        self.stage: str = NEW
        self.owner = ""
        """The plugin that took it."""
        self.record: Parked | None = None
        self._body: CollectedBody | None = None
        self._address = self._number = self._trace = self._shown = b""
        self._passed: tuple[Service, ...] = ()
        """Services that handed it on, and have plugins to tell of its end."""
        self._told = False
        """Whether plugins have heard of its end."""

    # -- what came -----------------------------------------------------------------------------------------------

    @property
    def method(self) -> bytes:
        return self.request.method

    @property
    def path(self) -> bytes:
        """The raw path, undecoded, without the query."""
        return self.request.path

    @property
    def plain_path(self) -> bytes:
        """The path as whoever serves it reads it, for rules about who may see what: /%61dmin, //admin, /x/../admin, /admin;x are /admin.

        Escapes of visible ASCII characters are decoded (those of %, ? and # stay), parameters are taken off the segments, doubled slashes
        are one, and the segments . and .. are resolved. The request goes on with `path`, as it was sent.
        """
        return plain(self.request.path)

    @property
    def preflight(self) -> bool:
        """Whether a browser asks with it, before it sends a request for a page of another origin, if it may (Fetch standard, CORS)."""
        fields = self.request.fields
        return self.request.method == b"OPTIONS" and b"origin" in fields and b"access-control-request-method" in fields

    def in_path(self, pattern: re.Pattern[bytes]) -> bool:
        """Whether a pattern is found in plain_path, for rules about who may see what. Of `/dir/??a,b`, also in /dir/a and /dir/b.

        Raises: TookTooLong after 50 ms of processor time. A hook lets that pass: the request is answered 500, and no plugin is to blame.
        """
        if self.for_others:
            judged = bool(self.by_path(partial(found, pattern)))
            return judged or found(pattern, *[plain(path) for path in self.paths[1:]])
        return found(pattern, plain(self.request.path))

    @property
    def paths(self) -> list[bytes]:
        """The raw paths that it may be for: its own, and those of `/dir/??a,b`, which pbal and others take for /dir/a and /dir/b in one."""
        request = self.request
        if not request.query.startswith(b"?") or not request.path.endswith(b"/"):
            return [request.path]
        return [request.path, *[request.path + name for name in members(request.query)]]

    @property
    def for_others(self) -> bool:
        """Whether it may be for other paths than its own: for several files (enable_concatenate_get), or for one that a hook looks up."""
        return self.request.query.startswith(b"?") or bool(self.service.hooks.start_serve_request)

    def by_path(self, look: Callable[[bytes], int]) -> int:
        """What a rule finds in plain_path, 0 (False) if nothing. Rules that go by the path ask here or in_path(), as a request may be for
        other paths, too.

        That is one for several files (enable_concatenate_get), none of which is served of which a rule would have found something else; and
        one for a file that a hook looks up under another name, which is not served if a rule of the service would have found more.
        """
        found = look(plain(self.request.path))
        if self.for_others:
            if self.judged is None:
                self.judged = []
            self.judged.append((look, found, self.service))
        return found

    def judged_alike(self, path: bytes) -> bool:
        """Whether every rule that has looked at its path finds the same in another one, which is as it was sent."""
        meant = plain(path)
        return self.judged is None or all([look(meant) == found for look, found, _ in self.judged])

    def passed_over(self, path: bytes) -> bool:
        """Whether a rule of its service that found nothing in its path finds something in another one, which is as it would be sent."""
        meant = plain(path)
        service = self.service
        return self.judged is not None and any([not found and bool(look(meant)) for look, found, of in self.judged if of is service])

    @property
    def scheme(self) -> bytes:
        """b"https" or b"http", as the client has it: over TLS, or as a trusted proxy said in X-Forwarded-Proto.

        Of several, as `https,http`, the first is what the client had; the others were said by proxies behind that one.
        """
        if self.stream.tls is not None:
            return b"https"
        said = self.request.fields.get(b"x-forwarded-proto", b"").partition(b",")[0].strip()
        return b"https" if said.lower() == b"https" and self.believed else b"http"

    @property
    def tls(self) -> Secured | None:
        """Of the client's connection: protocol, cipher, server name, client certificate; None in clear text."""
        return self.stream.tls

    @property
    def believed(self) -> bool:
        """Whether pbal believes what the peer says about the client. Either this service or `home` has to trust the peer."""
        peer = self.stream.peer
        return self.service.trust.believes(peer) or (self.home is not self.service and self.home.trust.believes(peer))

    @property
    def client_address(self) -> bytes:
        """The client's address as text. A trusted proxy names it in X-Forwarded-For; otherwise it is the peer's address.

        With `forwarded` on, a trusted proxy that sends no X-Forwarded-For may name it in Forwarded (RFC 7239).

        Source: Perlbal manual, trusted_upstream_proxies, always_trusted. Computed once.
        """
        if not self._address:
            forwarded = self.request.fields.get(b"x-forwarded-for")
            if forwarded is None and self.service.forwarding is not None:
                forwarded = self.service.forwarding.listed(self.request.fields)
            peer = self.stream.peer
            trust = self.service.trust if self.service.trust.believes(peer) else self.home.trust
            self._address = peer if forwarded is None else trust.client_address(peer, forwarded)
        return self._address

    @property
    def numbered(self) -> bool:
        """Whether the request has an id for others to see (request_id)."""
        return self.service.numbered or self.home.numbered

    @property
    def request_id(self) -> bytes:
        """The request's id: a trusted peer's X-Request-Id, what a plugin set in its place, or one that pbal makes.

        It is 1 to 128 visible characters. With `request_id` on, nodes, the access log and pbal's own error pages show it.
        """
        if not self._number:
            request = self.request
            said = request.fields.get(b"x-request-id", b"")
            if said and is_id(said) and (b"x-request-id" in request.ours or self.believed):
                self._number = said
            else:
                self._number = self.service.world.numbering.next()
        return self._number

    @property
    def traceparent(self) -> bytes:
        """The traceparent that nodes are sent: the client's if it is valid, or one of a new trace with `traceparent = begin`; or b"".

        Source: W3C Trace Context.
        """
        if not self._trace:
            said = self.request.fields.get(b"traceparent", b"")
            if said and trace_of(said):
                self._trace = said
            elif self.service.traces or self.home.traces:
                self._trace = begun()
        return self._trace

    @property
    def body_limit(self) -> int | None:
        """Most bytes of body; a longer one is answered 413. None: the service's max_body; 0: no limit. A plugin may set it."""
        return self._body_limit

    @body_limit.setter
    def body_limit(self, limit: int | None) -> None:
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"body_limit is a number of bytes or None, not {limit!r:.60}")
        self._body_limit = limit

    def set_field(self, name: bytes, value: bytes | None) -> None:
        """Change a field of the request for everything after this hook. It replaces all fields of that name; None removes them.

        Other requests may share the head, so this exchange gets its own copy. The backend gets the field whatever the client says of
        it: whether the client is trusted or not, and also if its Connection field names it.
        Raises: IllegalField if the name or value is not legal, or the field frames the message.
        """
        render_fields([(name, value or b"")])
        known = canonical(name)
        if known in FRAMING_FIELDS:
            raise IllegalField(f"{name!r} frames the message and cannot be changed")
        if known == b"host" and value is not None and not is_host(value):
            raise IllegalField(f"not a host: {value!r:.100}")
        self.request = self.request.altered(name, value)

    def asked_about(self, names: Iterable[bytes], path: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """Fields for Service.ask that tell a node of this request: those of its own that are named, and whose it is and what it asks for.

        These are X-Original-URI, X-Original-Method, X-Forwarded-For, X-Forwarded-Proto and Host. `path`: what it asks for, if that is one
        of `paths` and not its whole target.
        """
        request, peer = self.request, self.stream.peer
        before = request.fields.get(b"x-forwarded-for", b"")
        fields = [
            (b"X-Original-URI", request.path + (b"?" + request.query if request.query else b"") if path is None else path),
            (b"X-Original-Method", request.method),
            (b"X-Forwarded-For", before + b", " + peer if before and self.believed else peer),
            (b"X-Forwarded-Proto", self.scheme),
        ]
        if request.host:
            fields.append((b"Host", request.host))
        return fields + [(name, request.fields[name.lower()]) for name in names if name.lower() in request.fields]

    def read_body(self) -> bytes:
        """The whole body, in proxy_read_request and after it; b"" if there is none.

        In the hook it is in memory. Later, one that is longer than buffer_backend_connect is read from disk: every client waits for it.
        """
        body = self._body
        return b"" if body is None or not body.whole else body.read()

    @property
    def body_size(self) -> int:
        """Bytes of body that are held: all of them in proxy_read_request and after it."""
        return 0 if self._body is None else self._body.size

    def collected(self, body: CollectedBody) -> None:
        """The role holds the body here. It is closed when the exchange ends."""
        self._body = body

    def collected_body(self) -> CollectedBody | None:
        """What collected() was given, or None. It may be whole, or the beginning."""
        return self._body

    def chosen(self, members: "Sequence[Member]") -> int:
        """See Asking. What a plugin does wrong here is reported, and the request is not its business any more."""
        nodes = tuple(members)
        world = self.service.world
        for bound in self.service.hooks.select_node:
            said = self.asked_of(bound, nodes)
            if said is None:
                continue
            for place, node in enumerate(nodes):
                if said is node:
                    return place
            if isinstance(said, Failed):
                raised(self.service, bound, said)
                continue
            tell_fault(world, bound.plugin, "hook select_node", f"returned {shown(said)}, not one of the nodes or None", place_of(bound))
            if isinstance(said, CoroutineType):
                said.close()
            self.service.failed(bound.plugin)
        return -1

    def asked_of(self, bound: Bound, more: object = None) -> object:
        """Call a hook that may only look at it and say something. What it returned, or Failed."""
        stage = self.stage
        self.stage = CHOOSING
        said = call(self.service.world, bound, self, more)
        self.stage = stage
        return said

    # -- the access log -----------------------------------------------------------------------------------------

    @property
    def log(self) -> AccessLog | None:
        """Where its line goes: to the log of the service that has it, or of the one whose listener it came by."""
        log = self.service.access
        return self.home.access if log is None else log

    def note(self, name: str, value: str) -> None:
        """Say something of the request in its line of the access log: `name` is $note_NAME there, and a member in JSON.

        `user` says who the client is, for $user. Nothing happens where no log is, so make the value cheaply. It is cut after 1000
        octets, and quoted. It stays with a client that is parked. Raises: ValueError for a name that is none, or is pbal's own.
        """
        if self.log is None:
            return
        if NOTE_NAME.fullmatch(name) is None or (name in FIELDS and name != "user"):
            raise ValueError(f"not the name of a note: {name!r:.60}")
        if self.notes is None:
            self.notes = {}
        if len(self.notes) < MOST_NOTES or name in self.notes:
            self.notes[name] = value[:LONGEST_NOTE]

    def conceal(self, *names: bytes) -> None:
        """Keep the values of these members of its query out of the access log and off consoles: they are credentials.

        A name is as it is once decoded. Nodes get the query as it came.
        """
        query = self.request.query
        parts = [part.partition(b"=") for part in query.split(b"&")]
        said = [
            name + (b"=..." if unquote_to_bytes(name.replace(b"+", b" ")) in names else equals + value) for name, equals, value in parts
        ]
        self._shown = self.request.target.removesuffix(query) + b"&".join(said)

    @property
    def shown(self) -> bytes:
        """Its target as consoles may show it: without what was concealed, and without the query where its service, or that of its
        listener, has access_log_query off.
        """
        query = self.service.values["access_log_query"] and self.home.values["access_log_query"]
        return self._shown or self.request.target if query else self.request.path

    def said(self, log: AccessLog) -> tuple[bytes, ...]:
        """What its line says of the client and the head."""
        request, tls = self.request, self.stream.tls
        trace = self._trace or request.fields.get(b"traceparent", b"")
        return log.origin(
            self.client_address, self.stream.peer, request.method, self._shown or request.target, request.path,
            b"HTTP/1.1" if request.minor else b"HTTP/1.0", request.host,
            request.fields, "" if tls is None else tls.version, self.request_id if self.numbered else b"", trace and trace_of(trace),
        )  # fmt: skip

    def kept(self) -> Account | None:
        """What a client that is parked now keeps for its line; None where no log is."""
        log = self.log
        if log is None:
            return None
        account = Account(self.began, self.started)
        account.body_at, account.received, account.notes = self.body_at, self.received, self.notes
        account.kind = POLL
        account.sought_at = self.service.world.clock.now()
        account.origin = shared(self.said(log))
        return account

    def _tell(self, log: AccessLog, whole: bool, now: float) -> None:
        """Write its line: it has ended."""
        end, phase = self._how(whole)
        log.write(self, self.said(log), self.service.label, end, phase, now, self.service.world.clock.epoch())

    def _remember(self, whole: bool, now: float) -> None:
        """It ended badly: keep what an operator will ask for."""
        if self.status < 500 and self.cause not in BADLY:
            return
        service, request = self.service, self.request
        world = service.world
        end, phase = self._how(whole)
        world.counters.counts["failures"] += 1
        world.recent.add(
            world.clock.epoch(), service.name, self.client_address, self.request_id if self.numbered else b"", request.method,
            self.shown, self.status, end, phase, self.node, self.attempts, now - self.started, self.trouble,
        )  # fmt: skip

    def _how(self, whole: bool) -> tuple[bytes, bytes]:
        """Who ended it, and in which phase."""
        end = self.cause
        if whole and not end:
            return DONE, ANSWER
        return end or CLIENT_LEFT, self._phase(whole)

    def _phase(self, whole: bool) -> bytes:
        """When it ended, where that was not after its answer."""
        if self.kind == TUNNEL:
            return TUNNEL
        if self.answered_at or (self.status and not whole):
            return ANSWER
        if self.asked_at:
            return NODE
        if self.sought_at:
            return WAIT
        return HOOKS if self.body_complete else BODY

    # -- for who follows it --------------------------------------------------------------------------------------

    def trace(self, tracer: Tracer, what: str, detail: str = "", queues: tuple[str, ...] = ()) -> None:
        """Tell of something that happened to it."""
        stream = self.stream
        tracer.tell(
            self.home.name, self.service.name, stream.peer_name, self.client_address.decode("ascii", "replace"), what, detail, queues
        )

    def described(self) -> str:
        """Method, target and host, quoted as in the access log and cut."""
        request = self.request
        return quoted_text(b"%b %b for %b" % (request.method[:30], self.shown[:200], request.host[:100])).decode("ascii")

    # -- the answer ----------------------------------------------------------------------------------------------

    @property
    def answered(self) -> bool:
        """Whether an answer has begun, or none is possible because the exchange is parked or ended or the client has left."""
        return self.stage in _ANSWERED

    def enter(self, stage: str) -> None:
        """Go on to a stage. Raises: AnswerRefused if there is no such edge."""
        if stage not in EDGES[self.stage]:
            raise self._refused(f"the request is {self.stage} already")
        if self.stage is TAKEN:
            self.service.world.taken.pop(self, None)
        self.stage = stage

    def let_go(self) -> None:
        """The role that serves it dropped the node's response: whoever did so has it now, as if it were new."""
        assert self.stage is SERVED
        self.stage = NEW

    def _refused(self, why: str) -> AnswerRefused:
        """The exception to raise. Who answers late does so where nobody catches it: the log names the plugin."""
        world = self.service.world
        world.counters.counts["answers_refused"] += 1
        text = f"{why}: {self.method!r} {self.request.path[:100]!r}"  # without the query, which may hold a credential
        if self.owner:
            world.log_limited(
                f"answer refused {self.owner}",
                "plugin %(plugin)s: an answer was refused: %(text)s",
                {"event": "answer_refused", "plugin": self.owner, "service": self.service.name, "text": text},
            )
        return AnswerRefused(text)

    def _refuse_threads(self) -> None:
        """Raises: AnswerRefused in another thread than the loop's: an answer would lie until that turns, or break what it does."""
        thread = self.service.world.thread
        if thread and thread != get_ident():
            raise self._refused("pbal is spoken to in the thread of its loop alone (loop.call_soon_threadsafe)")

    def respond(
        self, status: int, fields: Fields = (), body: bytes = b"", on_lost: OnLost | None = None, patience: float = PATIENCE
    ) -> bool:
        """Send a whole answer. Returns False if the client has left.

        pbal adds Content-Length, Connection and the other fields that frame a message, and ignores them in `fields`.
        `on_lost` is called if the connection ends before the client's system has acknowledged the whole answer, or is reset within a
        second of that. `patience`: the seconds in which it has to acknowledge; then pbal breaks the connection.
        Raises: AnswerRefused if an answer has begun already; IllegalField for a status, field or body that cannot be sent, and
        whatever making the fields raises. The client then gets 500.
        """
        if self.stage is ENDED and not self.status:
            return False
        self._refuse_threads()
        self.enter(ANSWERING)
        try:
            return self.stream.respond(self, status, fields, body, on_lost, patience)
        except BaseException as error:
            self.cause = PLUGIN
            self.trouble = Trouble(f"an answer that cannot be sent: {describe(error):.170}")
            self.stream.respond(self, 500, (), UNSENDABLE, None, PATIENCE)
            raise

    def error(self, status: int, text: bytes, fields: Fields = ()) -> bool:
        """Answer with an error of pbal's own: a page, JSON or text, as the client prefers (model/pages.py). `text` is a line of text."""
        number = self.request_id if self.numbered else b""
        more, body = error_page(self.service.values["error_pages"], status, text, number, self.request.fields.get(b"accept"))
        return self.respond(status, [*fields, *more], body)

    def park(self, record: Parked) -> Waiting:
        """Let the client wait under `record`. Returns the object to answer it on. Do not use the exchange after this.

        Raises: AnswerRefused; TypeError for a record without gone().
        """
        if PARKED in EDGES[self.stage] and not callable(getattr(record, "gone", None)):
            raise TypeError(f"a record to park under has a method gone(): {record!r:.100} has none")
        self._refuse_threads()
        self.enter(PARKED)
        self.record = record
        if self._body is not None:
            self._body.close()
        if self.slot is not None:
            self._give_back(self.slot)
        if self.service.hooks.ended or self._passed:
            self._tell_plugins()
        return self.stream.park(self, record)

    def hand_to(self, service: "Service") -> None:
        """Give the exchange to another service, as a selector does. One that was disabled answers 503; one too many in a row, 508.

        Raises: AnswerRefused, also for a request whose body came meanwhile and was dropped: take such a request in
        proxy_read_request. ConfigError if the service's role answers no requests.
        """
        if service.standing is Standing.DISABLED:
            self.error(503, b"The service for this is disabled.\n")
            return
        self.handed += 1
        if self.handed > MOST_HANDED:
            service.world.counters.counts["loops_refused"] += 1
            self.error(508, b"Services hand this request to each other.\n")
            return
        handler = service.handler
        if handler is None or not service.opened:
            handler = service.selected()
        self._renew()
        self.turn_to(service)
        if service.tracer is not None:
            self.trace(service.tracer, "handed on", f"{self.described()} by {self.home.name}")
        at = service.world.clock.now()
        handler.begin(self)
        handed(at)

    def go_on(self) -> None:
        """Give a request that a plugin took back to its service, which serves it. Its hooks run again, those of this plugin among them.

        A plugin that had to wait before it could say PASS does this. What LIMIT counts is not counted again. Nothing happens where it is
        answered already, or the client has left. A service that was disabled meanwhile answers 503, and so does one that cannot serve it
        any more: have its body come first (read_first), or it is dropped.
        """
        service = self.service
        if self.stage in _ANSWERED:
            return
        self._refuse_threads()
        if self.resumed >= MOST_RESUMED:
            fault = f"took the same request again after each of {MOST_RESUMED} times that it gave it back"
            tell_fault(service.world, self.owner or "unknown", "go_on()", fault, "")
            service.failed(self.owner)
            self.fail(500, b"A plugin failed.\n")
            return
        if service.standing is Standing.DISABLED:
            self.error(503, b"The service for this is disabled.\n")
            return
        try:
            handler = service.handler
            if handler is None or not service.opened:
                handler = service.selected()
            self._renew()
        except (AnswerRefused, ConfigError):  # the log has it
            self.error(503, b"This cannot be served any more.\n")
            return
        self.resumed, self.collecting = self.resumed + 1, False
        at = service.world.clock.now()
        handler.begin(self)
        handed(at)

    def read_first(self) -> None:
        """Have the whole body come before anything else: return TAKEN then. Its hooks run again with the body there, as after go_on().

        A plugin that has to wait does this where `body_complete` is false. With PASS the next plugin would have a request of which nothing
        is decided. It may answer while the body comes: who is to be refused need not send all of it. A body that is too large is answered
        413. Raises: ConfigError where the body has come already.
        """
        handler = self.service.handler
        if handler is None or self.body_complete:
            raise ConfigError("no body is to come")
        self.collecting = True
        handler.read_first(self)

    def waits_for(self, plugin: str) -> bool:
        """Whether it is a plugin's to answer or to give back: the plugin took it, or has its body come first.

        It is not where the plugin left the chain meanwhile, and the request went on.
        """
        return self.owner == plugin and (self.collecting or self.stage is TAKEN) and not self.answered

    def _renew(self) -> None:
        """Become new again. Raises: AnswerRefused."""
        if self.request.framing and (self._body is None or not self._body.whole) and (self.received or self.body_complete):
            raise self._refused("the body of the request is not there any more")
        self.enter(NEW)

    def turn_to(self, service: "Service") -> None:
        """Be another service's from here on, with what the former one's HEADER statements say."""
        rules = self.service.rules
        if rules.request is not None:
            changes = rules.request.changes(self)
            self.request = self.request.changed(changes.removed, changes.added)
        if rules.response is not None:
            self.outer = self.ruled()
        if self.service.hooks.ended:
            self._passed = (self.service, *self._passed)
        self.service = service
        self.resumed = 0
        self.rewritten = b""
        self._address = b""

    def ruled(self) -> Changes | None:
        """What the RESPONSE rules of its service, and of those that handed it on, make of the fields of its answer."""
        rules, outer = self.service.rules.response, self.outer
        if rules is None:
            return outer
        changes = rules.always if self.unjudged else rules.changes(self)
        return changes if outer is None else changes.then(outer)

    # -- for roles and the connection ----------------------------------------------------------------------------

    def taken_by(self, plugin: str) -> None:
        """A hook said TAKEN and did not answer yet: it owes an answer."""
        if self.stage is not NEW:
            return
        self.stage = TAKEN
        self.owner = plugin
        self.service.world.taken[self] = self.service.world.clock.now()

    def fail(self, status: int, body: bytes) -> None:
        """Whoever had it cannot answer: an error as long as that can be said, then a visible cut."""
        self.cause = self.cause or PLUGIN
        if self.stage is PARKED and self.record is not None:
            record, self.record = self.record, None
            self.stage = NEW
            if self.stream.withdraw(self, record):
                guarded(self.service.world, self.owner, record.gone)
        if self.stage is ANSWERING:
            self.stream.cut(self)
        elif self.stage is not ENDED:
            self.error(status, body)

    def _tell_plugins(self) -> None:
        """Its end: told once."""
        if self._told:
            return
        self._told = True
        service = self.service
        tell(service, service.hooks.ended, self)
        for former in self._passed:
            tell(former, former.hooks.ended, self)

    def _give_back(self, slot: Slot) -> None:
        self.slot = None
        slot.give_back()

    def ended(self, whole: bool) -> None:  # noqa: C901 - the hot path: a call costs more than a branch
        """Nothing more comes of it. Called once, by the stream, whatever happened. `whole`: the answer was written to its end."""
        if self.stage is TAKEN:
            self.service.world.taken.pop(self, None)
        if not whole:
            self.service.world.counters.counts["aborted_clients"] += 1
        self.stage = ENDED
        if self.slot is not None:
            self._give_back(self.slot)
        service = self.service
        traffic = service.traffic
        now = service.world.clock.now()
        status = self.status
        traffic.statuses[status // 100] += 1
        traffic.sent += self.sent
        if self.received:
            traffic.received += self.received
        if self.kind is not TUNNEL:
            if status:
                latency = traffic.latency
                spent = now - self.started
                latency.window[bucket(spent)] += 1
                latency.seconds += spent
            if self.asked is not None:
                latency = self.asked.latency
                spent = now - self.asked_at
                latency.window[bucket(spent)] += 1
                latency.seconds += spent
        if service.hooks.ended or self._passed:
            self._tell_plugins()
        if status >= 500 or self.cause:
            self._remember(whole, now)
        if service.tracer is not None:
            end, phase = self._how(whole)
            detail = f"status {status}, {end.decode()} in {phase.decode()}, {(now - self.started) * 1000:.2f} ms, {self.sent} bytes"
            self.trace(service.tracer, "ended", detail)
        log = self.log
        if log is not None and log.wants(self, whole):
            self._tell(log, whole, now)
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.client_gone()
        if self._body is not None:
            self._body.close()


_ANSWERED: Final = frozenset({ANSWERING, PARKED, ENDED})
