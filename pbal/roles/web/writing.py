"""PUT and DELETE of a web_server: what of them is decided on the loop, and the body on its way to a disk.

    refused    by its name, its fields or its size: at once, before a client that waits for 100 Continue has sent anything
    opening    a thread looks at the place and opens a draft (files/writing.py); what comes meanwhile waits
    writing    what came goes to the draft, and what comes while a thread writes goes with its next job
    ending     all of it came: a thread checks, syncs, and puts the file in its place        -> 201, 204
    removing   a thread removes a file                                                       -> 204

A Writing is the sink of its exchange. One job of it is under way at a time. Its client is paused while more than UNFLUSHED octets of it
wait for the disk, or ALL_UNFLUSHED of all bodies (model/bodies.py), so its memory is bounded whatever its length. A client that leaves
ends it: the draft is dropped in a thread, when the job that runs has ended. Only what is being put in its place meanwhile stays, whole.

A disk that does not answer for DISK_SECONDS counts as one that failed, unless the file is being put in place: then it is not known
whether it was, and the client waits.

A body that plugins had collected (proxy_read_request) is taken from where it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import unquote_to_bytes

from pbal.http1.digests import PREFERRED, BadDigest, named
from pbal.http1.encoder import http_date
from pbal.http1.events import CHUNKED
from pbal.model.bodies import ALL_UNFLUSHED, BATCH, DISK_SECONDS, PIECE, UNFLUSHED, append
from pbal.model.collected import CollectedBody
from pbal.model.exchange import Exchange
from pbal.model.service import Service
from pbal.model.sink import Sink
from pbal.observe.access import NO_ROOM
from pbal.observe.recent import Trouble
from pbal.roles.collect import RETRY_AFTER
from pbal.roles.files.disk import in_writing_thread
from pbal.roles.files.finding import Rules
from pbal.roles.files.writing import Draft, NotWritten, Target, Version, refusal, remove

Fields = list[tuple[bytes, bytes]]

DEEPEST: Final = 101
"""Names in a path: folders, and the file. As many as min_put_directory can ask for; nobody is to make thousands at once."""
LONGEST: Final = 4096
"""PATH_MAX of Linux: nobody could read what has a longer name."""
_WANT: Final = (b"Want-Content-Digest", PREFERRED)


# -- decided on the loop -----------------------------------------------------------------------------------------------


def target_of(service: Service, rules: Rules | None, exchange: Exchange) -> Target:
    """Where a PUT or DELETE would write. Raises: NotWritten."""
    if rules is None:
        raise NotWritten(404, "Nothing here.", why="there is no docroot")
    plain = unquote_to_bytes(exchange.path)
    steps = tuple(plain.split(b"/")[1:])
    too_long = len(steps) > DEEPEST or len(rules.folder) + len(plain) >= LONGEST
    if not plain.startswith(b"/") or too_long or not all(map(_is_name, steps)):
        raise NotWritten(400, "Invalid filename.")
    if not rules.allows(plain):  # what is never served is not written either
        raise NotWritten(403, "Not for you.", why="a name that is not served")
    put = exchange.method == b"PUT"
    least = service.values["min_put_directory"] if put else 0
    if len(steps) - 1 < least:
        raise NotWritten(400, "Does not meet minimum directory requirement.")
    return Target(rules, steps, least, exchange.request.fields)


def _is_name(step: bytes) -> bool:
    """Whether a file or folder may have this name: no dot segment, and no character that listings cannot show."""
    return step not in (b"", b".", b"..") and len(step) <= 255 and not any(octet < 32 or octet == 127 for octet in step)


def required(service: Service, exchange: Exchange) -> list[tuple[str, bytes]]:
    """Look at the fields of a PUT; the checksums that its body has to have. Raises: NotWritten."""
    request, values = exchange.request, service.values
    fields = request.fields
    if b"content-range" in fields:  # RFC 9110 section 14.5
        raise NotWritten(400, "A PUT of a part (Content-Range) is not taken.")
    if fields.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
        raise NotWritten(415, "A body with a Content-Encoding is not taken: it would be served without.")
    limit = values["max_put_size"]
    body = exchange.collected_body()
    size = body.size if body is not None and body.whole else request.framing
    if limit and size > limit:
        raise NotWritten(413, f"The file is larger than {limit} bytes.")
    try:
        return named(fields, values["enable_md5"])
    except BadDigest as error:
        raise NotWritten(400, f"{error}.") from None


def chunked_limit(service: Service, exchange: Exchange) -> int | None:
    """Most octets of a body whose length is not known, where max_put_size is less than what else holds; None: it is not."""
    values = service.values
    limit = int(values["max_put_size"])
    if not limit or exchange.request.framing != CHUNKED:
        return None
    others = (values["max_body"], values["max_chunked_request_size"]) if exchange.body_limit is None else (exchange.body_limit,)
    return min(limit, *(other for other in others if other))


# -- the body ----------------------------------------------------------------------------------------------------------


class Writing(Sink):
    """The sink of an exchange whose body becomes a file, or whose file is removed."""

    __slots__ = (
        "_bodies", "_busy_since", "_digests", "_done", "_draft", "_ending", "_exchange", "_files", "_gone", "_in_job", "_paused", "_place",
        "_source", "_target", "_unflushed", "_waiting", "busy",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, target: Target, digests: list[tuple[str, bytes]], done: "Callable[[Writing], None]") -> None:
        """`done` is told when nothing of it is under way any more."""
        self._exchange, self._target, self._digests, self._done = exchange, target, digests, done
        self._bodies, self._files = exchange.service.world.bodies, exchange.service.world.files
        self._draft: Draft | None = None
        self._waiting: list[bytes] = []
        self._unflushed = 0
        """Octets that are not on the disk yet."""
        self._in_job = 0
        """Those of them that a thread writes."""
        self.busy = False
        """Whether a job is under way."""
        self._busy_since = 0.0
        self._paused = self._ending = False
        self._gone = False
        """Nobody waits for it any more."""
        body = exchange.collected_body()
        self._source: CollectedBody | None = body if body is not None and body.whole else None
        self._place = 0
        """Octets that were taken from there."""
        exchange.sink = self

    def put(self) -> None:
        """Begin a PUT."""
        expected = self._exchange.request.framing if self._source is None else self._source.size
        self._begin()
        self._files.open.add(self)
        in_writing_thread(partial(Draft, self._target, expected, {name for name, _ in self._digests}), self._opened)

    def delete(self) -> None:
        """Begin a DELETE."""
        self._ending = True
        self._begin()
        in_writing_thread(partial(remove, self._target), self._removed)

    # -- from the exchange ---------------------------------------------------------------------------------------

    def body_data(self, data: bytes) -> None:
        if self._ending:  # of a DELETE: it means nothing
            return
        self._add(data)
        if not self._paused and (self._unflushed > UNFLUSHED or (self._bodies.unflushed > ALL_UNFLUSHED and self.busy)):
            self._paused = True
            self._exchange.stream.pause_body()

    def body_end(self) -> None:
        if not self.busy:
            self._go_on()

    def client_gone(self) -> None:
        self._leave()

    def client_drained(self) -> None:
        """Nothing is being sent to the client yet."""

    def client_full(self) -> None:
        """Nothing is being sent to the client yet."""

    # -- octets --------------------------------------------------------------------------------------------------

    def _add(self, data: bytes) -> None:
        octets = len(data)
        self._unflushed += octets
        self._bodies.unflushed += octets
        append(self._waiting, data)
        if not self.busy and self._unflushed >= BATCH:
            self._flush()

    def _flush(self) -> None:
        """Have a thread write what waits."""
        assert self._draft is not None
        self._begin()
        in_writing_thread(partial(self._draft.write, self._take()), self._wrote)

    def _take(self) -> list[bytes]:
        pieces, self._waiting = self._waiting, []
        self._in_job = self._unflushed
        return pieces

    def _go_on(self) -> None:
        """No job is under way: begin the next one, if there is something to do."""
        if self._paused and self._unflushed <= UNFLUSHED // 2:
            self._paused = False
            self._exchange.stream.resume_body()
            if self.busy or self._gone:  # by what came
                return
        source = self._source
        if source is not None and self._place < source.size:
            self._pull(source)
        elif self._exchange.body_complete:
            self._finish()
        elif self._unflushed >= BATCH:
            self._flush()

    def _pull(self, source: CollectedBody) -> None:
        """Take what plugins had collected."""
        if not source.spooled:
            self._place = source.size
            for part in source.parts:
                self._add(part)
            if not self.busy:
                self._go_on()
            return
        octets = min(PIECE, source.size - self._place)
        self._begin()
        source.read_soon(self._place, octets, self._pulled)

    def _pulled(self, data: bytes | None, error: Exception | None) -> None:
        self.busy = False
        if error is not None or data is None:
            self._fail(error or OSError("the body cannot be read back"))
            return
        self._place += len(data)
        self._add(data)
        if not self.busy:
            self._go_on()

    def _finish(self) -> None:
        """All of it has come."""
        assert self._draft is not None
        exchange = self._exchange
        digests = self._digests
        if exchange.trailer:
            try:
                digests = [*digests, *named(_fields_of(exchange.trailer), exchange.service.values["enable_md5"])]
            except BadDigest as error:
                self._refuse(NotWritten(400, f"{error}."))
                return
        self._ending = True
        self._begin()
        now_ns = int(exchange.service.world.clock.epoch() * 10**9)
        draft, self._draft = self._draft, None
        in_writing_thread(partial(_placed, draft, self._take(), digests, now_ns), self._put)

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.busy = True
        self._busy_since = self._bodies.now()

    def _opened(self, draft: Draft | None, error: BaseException | None) -> None:
        """The place was looked at."""
        self.busy = False
        self._draft = draft
        if self._gone:
            self._drop()
        elif error is not None:
            self._fail(error)
        else:
            self._exchange.stream.continue_body()
            self._go_on()

    def _written(self) -> None:
        """A job has ended that wrote octets."""
        self.busy = False
        self._bodies.unflushed -= self._in_job
        self._unflushed -= self._in_job
        self._in_job = 0

    def _wrote(self, _: None, error: BaseException | None) -> None:
        """The octets of a job are in the draft."""
        self._written()
        if self._gone:
            self._drop()
        elif error is not None:
            self._fail(error)
        else:
            self._go_on()

    def _put(self, version: Version | None, error: BaseException | None) -> None:
        """The file is in its place, or could not be put there."""
        self._written()
        if version is not None:
            self._changed("puts")
        if self._gone:
            self._drop()
        elif version is None:
            self._files.forget()  # it may be there all the same
            self._fail(error)
        else:
            modified = min(max(version.mtime_ns // 10**9, 0), int(self._exchange.service.world.clock.epoch()))
            fields = [(b"ETag", version.etag), (b"Last-Modified", http_date(modified))]
            self._answer(201 if version.is_new else 204, fields, "created" if version.is_new else "replaced")

    def _removed(self, _: None, error: BaseException | None) -> None:
        """The file is gone, or could not be removed."""
        self.busy = False
        if error is None:
            self._changed("deletes")
        if self._gone:
            self._drop()
        elif error is not None:
            self._files.forget()
            self._fail(error)
        else:
            self._answer(204, [], "removed")

    def _changed(self, counter: str) -> None:
        """A file is another one, or gone: whoever asks next is to see that."""
        world = self._exchange.service.world
        world.counters.counts[counter] += 1
        world.files.forget()

    # -- ways out ------------------------------------------------------------------------------------------------

    def late(self, now: float) -> None:
        """Called once a second: give up on a disk that does not answer."""
        if self.busy and not self._ending and not self._gone and self._busy_since + DISK_SECONDS < now:
            self._fail(TimeoutError(f"no answer from the disk in {DISK_SECONDS:g} seconds"))

    def _answer(self, status: int, fields: Fields, what: str) -> None:
        """It is done. `what` is in the access log, and in a trace."""
        exchange = self._exchange
        exchange.note("written", what)
        tracer = exchange.service.tracer
        if tracer is not None:
            exchange.trace(tracer, "written", what)
        exchange.sink = None
        self._leave()
        exchange.respond(status, fields)

    def _fail(self, error: BaseException | None) -> None:
        self._refuse(refusal(error if error is not None else OSError("nothing was done")))

    def _refuse(self, why: NotWritten) -> None:
        """Nothing is changed, and the client is told."""
        exchange = self._exchange
        exchange.sink = None
        self._leave()
        if self._paused:  # what still comes is read and dropped, or the client would not see the answer
            exchange.stream.resume_body()
        if not exchange.answered:  # reading on may have found that the body is no body
            refuse(exchange, why)

    def _leave(self) -> None:
        """The exchange has no use for it any more."""
        self._gone = True
        self._bodies.unflushed -= self._unflushed - self._in_job
        self._unflushed = self._in_job
        self._waiting.clear()
        if not self.busy:
            self._drop()

    def _drop(self) -> None:
        """Nothing is under way: give back what there is."""
        draft, self._draft = self._draft, None
        if draft is not None:
            in_writing_thread(draft.close, self._closed)
        else:
            self._closed(None, None)

    def _closed(self, _: None, error: BaseException | None) -> None:
        """Nothing of it is left. Closing a draft fails at nothing that somebody would have to know."""
        self._files.open.discard(self)
        self._done(self)


def _placed(draft: Draft, pieces: list[bytes], digests: list[tuple[str, bytes]], now_ns: int) -> Version:
    """In a thread: put a file in its place, or drop it. Raises: NotWritten, OSError."""
    try:
        return draft.finish(pieces, digests, now_ns)
    finally:
        draft.close()


def _fields_of(trailer: bytes) -> dict[bytes, bytes]:
    """The lines of a trailer section by their names, in lower case."""
    found: dict[bytes, bytes] = {}
    for line in trailer.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            key, value = name.lower(), value.strip(b" \t")
            found[key] = found[key] + b", " + value if key in found else value
    return found


def refuse(exchange: Exchange, why: NotWritten) -> None:
    """Say that nothing was changed."""
    service = exchange.service
    world, status = service.world, why.status
    failed = status >= 500
    world.counters.counts["writes_failed" if failed else "writes_refused"] += 1
    exchange.trouble = Trouble(why.why)
    if failed:
        exchange.cause = NO_ROOM
        world.log_limited(
            f"write {service.name}",
            "service %(service)s: %(method)s of %(path)s failed: %(reason)s",
            {
                "event": "write_failed", "service": service.name, "method": exchange.method.decode("latin-1"),
                "path": exchange.path.decode("latin-1"), "reason": why.why,
            },
        )  # fmt: skip
    fields = [(b"ETag", why.etag)] if why.etag else []
    if status == 503:
        fields += RETRY_AFTER
    if status == 415:
        fields.append((b"Accept-Encoding", b"identity"))
    if status == 400 and "igest" in why.message:
        fields.append(_WANT)
    exchange.error(status, why.message.encode() + b"\n", fields)
