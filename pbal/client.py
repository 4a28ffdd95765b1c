"""Reads queues of pbal, for programs in Python; the twin of examples/client/pbal.js. asyncio, and nothing to install.

    from pbal.client import publish, subscribe

    async with subscribe("http://127.0.0.1:8080/poll", "lobby", "garden") as messages:
        async for message in messages:
            print(message.queue, message.text)

    await publish("http://127.0.0.1:8080/publish", "lobby", b"hello")

The poll URI takes queues from its query (poll_queue = query:q) and answers JSON (poll_format = json). With poll_keep = ttl every message
reaches the program once and in order, however often connections break: a message has a position, and who comes back with it gets
what came after. Keep `position` (in a file, say), and a program that ends goes on there, too. A message counts as handled
when the program asks for the next one: if it ends before, it gets that message again. Where messages had to go
before they were read, `on_gap` is told, and the first message behind the gap says so. With poll_keep = taken (the default of pbal)
there are no positions, and a message is on its way once: what a connection that breaks had in it is lost.

    wait -> connecting -> open -> wait ...      ended: aclose(), or an error that will not go away

Two transports: an event stream, and where that does not come through, long polls. A stream that is answered by something else than
a stream, or by nothing for a while, is given up for good. Before a stream goes a poll that does not wait, where there is no position
yet. WebSockets would bring nothing here that a stream does not.

Nothing runs in the background. The connection is read when the program asks for a message, so a program that is slow slows its
stream down, until pbal ends it (poll_stream_buffer); the program then goes on from its position. Between two tries goes a random
time, up to half a minute in the end, and never less than a Retry-After asks for. What will not change by
trying again (401, 403, 404, a queue that was deleted) is raised.
"""

import asyncio
import base64
import json
import random
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit

from pbal.http1.events import BadResponse, EndOfBody, ResponseHead
from pbal.http1.reader import Limits, ResponseReader

PATIENCE = 15.0
"""Seconds: for a connection, for the head of an answer, and for the first octet of a stream."""
SILENCE = 45.0
"""Seconds without an octet after which a stream is dead: three of pbal's heartbeats."""
POLL = 25.0
"""Seconds that a long poll asks for: pbal's default, and less than the minute after which many proxies cut."""
FIRST, MOST = 0.25, 30.0
"""Seconds: the longest first wait after a loss, and the longest of all."""
SUPERSEDED_WAIT = 60.0
"""Seconds: who was superseded would supersede the other one in turn."""
LONGEST = 64 * 1024 * 1024
"""Octets of an answer, and of a line of a stream."""
_READ = 65536
_SAFE = "/%:@!$&'()*+,;=~-._?"
"""What may stand in a URL as it is; the rest of one is percent-coded."""

Transport = Literal["auto", "stream", "poll"]


class ClientError(Exception):
    """A request that was refused. `status` is that of the answer, 0 where there is none; `words` are the server's."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}" if status else words)
        self.status = status
        self.words = words


class QueueDeleted(ClientError):
    """A queue was deleted, and its readers were told to go (410)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message."""

    queue: str
    data: bytes
    """As it was published. In an event stream line ends are LF, and what is not UTF-8 comes as the JSON that pbal makes of it."""
    position: str
    """Where its reader stands behind it. Long polls tell only a whole answer's, so all but its last message have the one before."""
    after_gap: bool = False
    """Whether messages of its queue went missing right before it."""

    @property
    def text(self) -> str:
        """The message as text. Raises: UnicodeDecodeError."""
        return self.data.decode()


class _Lost(Exception):
    """A connection broke, or could not be had. `after`: seconds that the server wants us to stay away."""

    def __init__(self, words: str, after: float = 0.0) -> None:
        super().__init__(words)
        self.after = after


class _Silent(_Lost):
    """Nothing came for too long."""


class _NoStream(_Lost):
    """What was to be a stream is none."""


class _Superseded(Exception):
    """Another reader took the queue over."""


class _BadPosition(Exception):
    """The server does not know our position."""


class _Http:
    """Requests to one server, one after another, over one connection while that lasts."""

    def __init__(self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http or https URL")
        self.host, self.path, self.query = parts.hostname, parts.path or "/", parts.query
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port == (443 if self._tls else 80)
        self._fields = {"Host": host if default else f"{host}:{self.port}", **headers}
        for name, value in self._fields.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\t -~\x80-\xff]*", value):
                raise ValueError(f"the header field {name!r} cannot be sent")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._parser = ResponseReader(Limits())
        self._in_body = False

    async def ask(self, method: str, query: str, fields: Mapping[str, str], body: bytes = b"", wait: float = 0.0) -> ResponseHead:
        """Send a request; the head of its answer, which may take PATIENCE and so many seconds more. Raises: _Lost."""
        seconds = PATIENCE + wait
        target = quote(self.path, safe=_SAFE) + "?" + "&".join(filter(None, (quote(self.query, safe=_SAFE), query)))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in (self._fields | dict(fields)).items())]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        octets = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        kept = self._writer is not None
        try:
            return await self._ask(method, octets, seconds)
        except _Lost:
            self.close()
            if not kept or method == "POST":
                raise
        return await self._ask(method, octets, seconds)  # a kept connection may end just when it is used (RFC 9112 section 9.3.1)

    async def _ask(self, method: str, octets: bytes, seconds: float) -> ResponseHead:
        try:
            async with asyncio.timeout(PATIENCE):
                if self._writer is None:
                    self._parser = ResponseReader(Limits())
                    self._reader, self._writer = await asyncio.open_connection(self.host, self.port, ssl=self._tls)
                self._writer.write(octets)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise _Lost(str(error) or "the connection took too long") from error
        self._parser.expect(method.encode())
        while True:
            event = await self._event(seconds)
            if isinstance(event, ResponseHead) and event.status >= 200:
                self._in_body = event.framing != 0
                return event

    async def _event(self, seconds: float) -> ResponseHead | bytes | EndOfBody:
        """The next part of an answer, within so many seconds. Raises: _Lost."""
        assert self._reader is not None
        try:
            while True:
                self._parser.begin_turn()
                event = self._parser.next()
                if event is not None:
                    return event
                if self._parser.tired:
                    await asyncio.sleep(0)
                    continue
                async with asyncio.timeout(seconds):
                    data = await self._reader.read(_READ)
                if data:
                    self._parser.feed(data)
                else:
                    self._parser.eof()
                    self._parser.begin_turn()
                    return self._parser.next() or EndOfBody()
        except TimeoutError:
            self.close()
            raise _Silent("silence") from None
        except (OSError, BadResponse) as error:
            self.close()
            raise _Lost(str(error)) from error

    async def piece(self, seconds: float | None = None) -> bytes:
        """The next piece of a body; b"" at its end. Raises: _Lost for one that is cut, or after so many seconds (PATIENCE) without one."""
        if self._in_body:
            event = await self._event(seconds or PATIENCE)
            if isinstance(event, bytes):
                return event
            self._in_body = False
        if not self._parser.keep_alive:
            self.close()
        return b""

    async def body(self) -> bytes:
        """The whole body of an answer. Raises: _Lost."""
        found = bytearray()
        while piece := await self.piece():
            found += piece
            if len(found) > LONGEST:
                self.close()
                raise _Lost(f"an answer of more than {LONGEST} octets")
        return bytes(found)

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None


class _Events:
    """Octets of an event stream to (kind, id, data) triples: WHATWG HTML section 9.2.6. An id stands alone where there is no data."""

    def __init__(self) -> None:
        self.retry = 0.0
        """Seconds after which the server would like us back."""
        self._rest = b""
        self._kind = self._id = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[tuple[str, str, str | None]]:
        """The events that are whole now. Raises: _Lost for a line without an end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST:
            raise _Lost(f"a line of more than {LONGEST} octets")
        found = []
        for octets in lines:
            line = octets.removesuffix(b"\r").decode("utf-8", "replace")
            if not line:
                if self._data or self._id:
                    found.append((self._kind, self._id, "\n".join(self._data) if self._data else None))
                self._kind, self._id, self._data = "", "", []
                continue
            name, _, value = line.partition(":")
            self._field(name, value.removeprefix(" "))
        return found

    def _field(self, name: str, value: str) -> None:
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id":
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = min(int(value) / 1000, MOST)


class Subscription:
    """Reads queues; an asynchronous iterator of messages. `subscribe` makes it."""

    def __init__(
        self, url: str, queues: tuple[str, ...], position: str, transport: Transport, on_gap: Callable[[str], None] | None,
        on_state: Callable[[str, str], None] | None, headers: Mapping[str, str], tls: ssl.SSLContext | None,
    ) -> None:  # fmt: skip
        if not queues:
            raise ValueError("name a queue at least")
        self.queues = queues
        self.position = position
        """Where it stands: behind the last message that was handled. Give it to `subscribe` to go on there."""
        self.gaps = 0
        """Times that messages of a queue were missed."""
        self.transport: Transport = "stream" if transport == "auto" else transport
        """What is in use."""
        self._may_fall = transport == "auto"
        self._http = _Http(url, headers, tls)
        self._on_gap, self._on_state = on_gap, on_state
        self._waiting: deque[Message] = deque()
        self._handled = position
        """The position behind the message that the program has in its hands."""
        self._read_to = position
        """The position behind all that was read."""
        self._after_gap: set[str] = set()
        self._source: AsyncIterator[None] | None = None
        self._failures = 0
        self._state = ""
        self._closed = False

    def __aiter__(self) -> "Subscription":
        return self

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it. Nothing of what was read and not handled counts as read: `position` is behind what was handled."""
        self._closed = True
        self._drop()

    async def __anext__(self) -> Message:
        """The next message, when there is one. Raises: ClientError for a refusal, QueueDeleted; StopAsyncIteration after aclose()."""
        self.position = self._handled
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            try:
                await self._read()
            except BaseException:  # of a read that was cancelled half way nobody knows how far it got: the next one begins anew
                self._drop()
                raise
        message = self._waiting.popleft()
        self._handled = message.position if self._waiting else self._read_to
        return message

    def _drop(self) -> None:
        self._http.close()
        self._source = None
        self._waiting.clear()
        self._read_to = self._handled

    # -- connections ---------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read on; see to it that there is something to read from. Raises: ClientError."""
        try:
            if self._source is None:
                self._say("connecting" if not self._failures else "again")
                self._source = self._stream() if self.transport == "stream" else self._polls()
            await anext(self._source, None)
            return
        except _NoStream as error:
            if self._may_fall:
                self.transport = "poll"
            await self._lost(error, error.after)
        except _Lost as error:
            await self._lost(error, error.after)
        except _Superseded as error:
            await self._lost(error, SUPERSEDED_WAIT * (1 + random.random()), "superseded")
        except _BadPosition:
            self._read_to = self._handled = self.position = ""
            self._missed(self.queues)
            await self._lost(None, 0.0)

    async def _lost(self, error: Exception | None, after: float, state: str = "lost") -> None:
        self._http.close()
        self._source = None
        wait = max(after, random.uniform(0.02, min(MOST, FIRST * 2 ** min(self._failures, 10))))
        self._failures += 1
        self._say(state, str(error or ""))
        await asyncio.sleep(wait)

    def _opened(self) -> None:
        self._failures = 0
        self._say("open", self.transport)

    def _say(self, state: str, words: str = "") -> None:
        if state != self._state:
            self._state = state
            if self._on_state is not None:
                self._on_state(state, words)

    def _query(self, **more: str) -> str:
        asked = [("q", queue) for queue in self.queues]
        if self._read_to:
            asked.append(("position", self._read_to))
        return urlencode([*asked, *more.items()])

    async def _refused(self, head: ResponseHead) -> Exception:
        """What an answer other than 200 means."""
        words = (await self._http.body())[:200].decode("utf-8", "replace").strip() or f"the answer was {head.status}"
        if head.status == 400 and self._read_to and "position" in words:
            return _BadPosition()
        if head.status == 409:
            return _Superseded(words)
        if head.status == 410:
            return QueueDeleted(410, words)
        if head.status in (408, 425, 429) or head.status >= 500:
            asked = head.fields.get(b"retry-after", b"")
            return _Lost(words, float(asked) if asked.isdigit() and len(asked) < 6 else 0.0)
        return ClientError(head.status, words)

    async def _poll(self, seconds: float) -> None:
        """One poll. Raises: _Lost, ClientError, _Superseded, _BadPosition."""
        head = await self._http.ask("GET", self._query(timeout=f"{seconds:g}"), {"Accept": "application/json"}, wait=seconds)
        if head.status != 200:
            raise await self._refused(head)
        self._answer(await self._http.body())

    async def _polls(self) -> AsyncIterator[None]:
        """One poll after another. The first does not wait: its answer says that all is well."""
        seconds = 0.0
        while True:
            await self._poll(seconds)
            self._opened()
            seconds = POLL
            yield

    def _answer(self, body: bytes) -> None:
        """Take an answer of a poll. Raises: ClientError, _Superseded."""
        try:
            answer: Any = json.loads(body)
            position = str(answer.get("position", self._read_to))
            found = [(queue, _octets(message)) for queue, messages in answer["queues"].items() for message in messages]
            gaps = [str(queue) for queue in answer.get("gap", ())]
            superseded = bool(answer.get("superseded"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ClientError(200, "the answer is not one of poll_format = json") from None
        self._missed(gaps)
        for number, (queue, data) in enumerate(found, 1):
            self._take(queue, data, position if number == len(found) else self._read_to)
        self._read_to = position
        if superseded:
            raise _Superseded("a newer reader came for these queues")

    async def _stream(self) -> AsyncIterator[None]:
        """An event stream, as long as it lasts. Yields whenever something has come."""
        http, events = self._http, _Events()
        if not self._read_to:  # a poll that does not wait gives a position in each queue: a stream has none before its first message
            await self._poll(0.0)
            yield
        try:
            head = await http.ask("GET", self._query(), {"Accept": "text/event-stream"})
            if head.status != 200:
                raise await self._refused(head)
            if not head.fields.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
                raise _NoStream("the answer is not a stream")
            piece = await http.piece()
        except _Silent:  # a proxy may be waiting for the end of the answer
            raise _NoStream("nothing came of the stream") from None
        self._opened()
        while piece:
            self._events(events, piece)
            yield
            piece = await http.piece(SILENCE)
        raise _Lost("the stream ended", events.retry)

    def _events(self, events: _Events, piece: bytes) -> None:
        """Take what a stream brought. Raises: QueueDeleted, _Superseded, _BadPosition."""
        for kind, position, data in events.feed(piece):
            if kind == "gap" and data is not None:
                self._missed([data])
            elif kind == "superseded":
                raise _Superseded("a newer reader came for these queues")
            elif kind == "removed":
                raise QueueDeleted(410, "a queue was deleted")
            elif kind == "bad-position":
                raise _BadPosition
            elif data is not None:
                self._take(kind if kind and len(self.queues) > 1 else self.queues[0], data.encode(), position or self._read_to)
            if position:
                self._read_to = position

    def _take(self, queue: str, data: bytes, position: str) -> None:
        after_gap = queue in self._after_gap
        self._after_gap.discard(queue)
        self._waiting.append(Message(queue, data, position, after_gap))

    def _missed(self, queues: tuple[str, ...] | list[str]) -> None:
        for queue in queues:
            self.gaps += 1
            self._after_gap.add(queue)
            if self._on_gap is not None:
                self._on_gap(queue)


def _octets(message: Any) -> bytes:
    """A message of a JSON answer. Raises: ValueError, TypeError, KeyError."""
    if isinstance(message, str):
        return message.encode()
    return base64.b64decode(message["base64"], validate=True)


def subscribe(
    url: str, *queues: str, position: str = "", transport: Transport = "auto", on_gap: Callable[[str], None] | None = None,
    on_state: Callable[[str, str], None] | None = None, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None,
) -> Subscription:  # fmt: skip
    """Read queues of a poll URI: an asynchronous iterator of messages, which comes back whenever its connection is lost.

    `position`: where to go on; without one, where poll_first says. `transport`: "stream", "poll", or "auto" for what works.
    `on_gap(queue)` is called when messages were missed. `on_state(state, words)`: connecting, open, lost, again, superseded.
    `headers` go with each request (Authorization, Cookie). `tls`: for https, a context other than the default one.
    Raises: ValueError for a URL or a header that cannot be. The iterator raises ClientError for what is refused for good.
    """
    return Subscription(url, queues, position, transport, on_gap, on_state, headers or {}, tls)


async def publish(
    url: str, queue: str, message: bytes | str, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> dict[str, Any]:
    """Publish a message to a queue of a publish URI; its receipt: {"queue", "bytes", "parked", ...}.

    It is sent once: where the connection breaks, nobody knows whether it arrived, and that is raised (status 0).
    Raises: ClientError with the status and words of the refusal, ValueError for a URL or a header that cannot be.
    """
    http = _Http(url, headers or {}, tls)
    try:
        head = await http.ask("POST", urlencode([("q", queue)]), {}, message.encode() if isinstance(message, str) else message)
        body = await http.body()
    except _Lost as error:
        raise ClientError(0, str(error)) from error
    finally:
        http.close()
    if head.status != 202:
        raise ClientError(head.status, body[:200].decode("utf-8", "replace").strip())
    try:
        receipt: object = json.loads(body)
    except (ValueError, RecursionError):
        receipt = None
    if not isinstance(receipt, dict):
        raise ClientError(202, "the answer is no receipt: is the URL that of poll_publish_uri?")
    return receipt
