"""WebSockets (RFC 6455): a poll that asks for an upgrade gets a socket that stays open, and may speak.

The server sends one JSON text message an answer, as poll_format = json has it, and answers to what the client asks:

    {"queues": {"a": ["..."]}, "position": "TOKEN", "gap": ["a"]}      {"id": 7, "receipt": {...}}      {"id": 7, "error": "words"}

The client may send, each with an "id" that the answer repeats, and where poll_socket_allow says so:

    {"publish": {"queue": "a", "message": "..."}}    {"subscribe": ["b"], "position": "TOKEN"}    {"leave": ["b"]}    {"position": "TOKEN"}

The last one confirms (poll_keep = confirmed). Frames are wsproto's: masks, fragments, UTF-8 and close codes are judged there. What is
sent to many is framed once. Close codes beside the standard's: 4000 bad position, 4009 superseded, 4010 removed.

States: opened (the 101 is out) -> closing (a close frame went out, from either side) -> gone. A socket that is closing is out of
the lot, and what still comes from it is dropped by whoever lingers on its connection. Who has sent nothing between two heartbeats,
not even the answer to a ping, has gone.

Work a turn: MESSAGES frames of one socket; the rest waits, BACKLOG octets at most, and goes to the decoder PIECE by PIECE.
"""

import asyncio
import base64
import binascii
import json
from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, ClassVar

from pbal.api import Exchange

from . import cors, publisher
from .delivery import BAD_POSITION, DISABLED, REMOVED, SUPERSEDED, TIME_IS_OVER, Delivery
from .formats import Rendered, render
from .grants import Grant
from .hub import Hub
from .limits import address_of
from .lot import Staying
from .names import MOST_QUEUES, BadName, key_for
from .positions import BadPosition, read_token
from .settings import Settings

if TYPE_CHECKING:
    from wsproto.frame_protocol import Frame, FrameProtocol

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MESSAGES = 16
"""Frames of one socket that are carried out in one turn of the loop."""
BACKLOG = 256 * 1024
"""Octets that may wait for their turn."""
PIECE = 16 * 1024
"""Octets that the decoder is given at a time: what it holds nobody counts."""
PARTS = 64
"""Parts of a message that are kept beside each other; more are joined."""
MEDIA_TYPE = b"application/json"
NORMAL, GOING_AWAY, UNSUPPORTED, POLICY, TOO_BIG = 1000, 1001, 1003, 1008, 1009
_CODES = {TIME_IS_OVER: GOING_AWAY, DISABLED: GOING_AWAY, SUPERSEDED: 4009, REMOVED: 4010, BAD_POSITION: 4000}
_SAID = {SUPERSEDED: "superseded", REMOVED: "removed"}


class BadRequest(ValueError):
    """A message of the client that cannot be carried out. The text is for the client."""


@cache
def load() -> "type[FrameProtocol]":
    """What reads and makes frames. Imported late: who has no sockets pays nothing at start. It takes a tenth of a second, once."""
    from wsproto.frame_protocol import FrameProtocol

    return FrameProtocol


def loaded() -> bool:
    """Whether load() waits for nothing."""
    return load.cache_info().currsize > 0


def _protocol() -> "FrameProtocol":
    """A side's frames."""
    return load()(client=False, extensions=[])


def framed(text: str) -> bytes:
    """A text message as a frame."""
    return bytes(_protocol().send_data(text))


class Socket(Staying):
    """A WebSocket."""

    __slots__ = ("_ahead", "_grant", "_heard", "_hub", "_key", "_parts", "_protocol", "_size", "_waits")

    transport: ClassVar[str] = "websocket"

    def __init__(self, keys: tuple[bytes, ...], origin: bytes | None, address: bytes = b"") -> None:
        super().__init__(keys, origin, address)
        self._hub: Hub
        self._protocol: FrameProtocol | None = None
        self._key = b""
        """Sec-WebSocket-Key, until it is answered."""
        self._parts: list[str] | None = None
        """Of a message that has not come whole."""
        self._size = 0
        self._ahead: bytearray | None = None
        """What came and was not given to the decoder yet."""
        self._heard = True
        self._waits = False
        self._grant: Grant | None = None

    def ask(self, hub: Hub, key: bytes, grant: Grant | None) -> None:
        """What the request said, and what it may."""
        self._hub, self._key, self._grant = hub, key, grant

    # -- out -----------------------------------------------------------------------------------------------------

    def opened(self, hub: Hub) -> None:
        """See Reader."""
        accept = base64.b64encode(sha1(self._key + GUID, usedforsecurity=False).digest())
        self._key = b""
        self._protocol = _protocol()
        if self.client is not None:
            self.client.upgrade(self, b"websocket", [(b"Sec-WebSocket-Accept", accept)], b"")

    def give(self, hub: Hub, delivery: Delivery) -> bool:
        """See Reader."""
        _, rendered = self.rendered(hub, delivery, "websocket")
        return hub.push(self, rendered.body, delivery)

    def render(self, settings: Settings, delivery: Delivery, position: bytes) -> Rendered:
        """See Reader."""
        answer = render("json", delivery.names(settings), settings.framing, position, delivery.missed(settings))
        return answer._replace(body=framed(answer.body.decode()))

    def end(self, hub: Hub, why: str) -> None:
        """See Reader."""
        said = _SAID.get(why)
        first = b"" if said is None else framed(json.dumps({said: True}))
        self._finish(_CODES[why], why, first)

    def _finish(self, code: int, reason: str, first: bytes = b"") -> None:
        protocol = self._protocol
        if self.client is not None and protocol is not None:
            self.client.finish(self, first + bytes(protocol.close(code, reason)))

    def beat(self, hub: Hub) -> None:
        """See Reader."""
        protocol = self._protocol
        if not self._heard:
            if hub.out(self):
                hub.counts["poll_gone"] += 1
                if self.client is not None:
                    self.client.kick(self)
            return
        self._heard = False
        if protocol is not None:
            hub.push(self, bytes(protocol.ping()), None)

    def _say(self, answer: dict[str, Any]) -> None:
        if self.lot is not None:
            self._hub.push(self, framed(json.dumps(answer)), None)
            return
        heir: Any = self._hub.serving().lot.find(str(self.id))  # a reload came before the store's answer
        if heir is not None and heir is not self and heir.transport == self.transport:
            heir._say(answer)

    # -- in ------------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """See model.parking.Upgraded."""
        protocol = self._protocol
        if protocol is None or self.lot is None:
            return
        self._heard = True
        if self._ahead is None and not self._waits and len(data) <= PIECE:
            protocol.receive_bytes(data)
        else:
            self._ahead = (self._ahead or bytearray()) + data
            if len(self._ahead) > BACKLOG:
                self._close(POLICY, "too much at once")
                return
        if not self._waits:
            self._read()

    def _read(self) -> None:
        """Carry out what has come, MESSAGES of it in this turn."""
        from wsproto.frame_protocol import ParseFailed

        self._waits = False
        protocol = self._protocol
        assert protocol is not None
        left = MESSAGES
        try:
            while True:
                for frame in protocol.received_frames():
                    self._frame(frame)
                    if self.lot is None:
                        return
                    left -= 1
                    if not left:
                        self._waits = True
                        asyncio.get_running_loop().call_soon(self._read_on)
                        return
                ahead = self._ahead
                if ahead is None:
                    return
                protocol.receive_bytes(bytes(ahead[:PIECE]))
                del ahead[:PIECE]
                self._ahead = ahead or None
        except ParseFailed as error:
            self._close(int(error.code), str(error))

    def _read_on(self) -> None:
        if self.lot is not None and self._waits:
            self._read()

    def _close(self, code: int, reason: str) -> None:
        """End it from this side."""
        if self._hub.out(self):
            self._hub.counts["poll_gone"] += 1
            self._finish(code, reason)

    def _frame(self, frame: "Frame") -> None:
        from wsproto.frame_protocol import CloseReason, Opcode

        payload: Any = frame.payload  # octets, text, or code and reason of a close
        if frame.opcode is Opcode.PING:
            assert self._protocol is not None
            self._hub.push(self, bytes(self._protocol.pong(payload)), None)
        elif frame.opcode is Opcode.CLOSE:
            code = payload[0]
            self._close(NORMAL if code is CloseReason.NO_STATUS_RCVD else int(code), "")
        elif frame.opcode is Opcode.BINARY:
            self._close(UNSUPPORTED, "messages are text here")
        elif frame.opcode is Opcode.TEXT:
            self._text(payload, frame.message_finished)

    def _text(self, text: str, whole: bool) -> None:
        """A text message, or a part of one."""
        self._size += len(text.encode())
        if self._size > self._hub.settings.max_body:
            self._close(TOO_BIG, "the message is too long")
            return
        if not whole or self._parts is not None:
            if self._parts is None:
                self._parts = []
            if text:
                self._parts.append(text)
            if len(self._parts) > PARTS:
                self._parts = ["".join(self._parts)]
            if not whole:
                return
            text = "".join(self._parts)
        self._parts, self._size = None, 0
        request: Any = None
        try:
            request = json.loads(text)
            self._carry_out(request)
        except (BadRequest, BadName, BadPosition, publisher.Refused) as error:
            self._say({**_id(request), "error": str(error)})
        except (ValueError, RecursionError):
            self._say({"error": "the message is not JSON"})

    def _carry_out(self, request: Any) -> None:
        """One request. Raises: BadRequest, BadName, BadPosition, publisher.Refused."""
        if not isinstance(request, dict):
            raise BadRequest("a message is a JSON object")
        if "publish" in request:
            self._publish(request)
        elif "subscribe" in request:
            self._subscribe(request)
        elif "leave" in request:
            self._leave(request)
        elif "position" in request:
            self._confirm(request)
        else:
            raise BadRequest("a message holds publish, subscribe, leave or position")

    def _publish(self, request: dict[str, Any]) -> None:
        hub = self._hub
        asked = request["publish"]
        if "publish" not in hub.settings.socket_allow or address_of(self) not in hub.settings.publish_from:
            raise BadRequest("this socket may not publish")
        if not isinstance(asked, dict) or not isinstance(asked.get("queue"), str) or not isinstance(asked.get("message"), str):
            raise BadRequest('publish is {"queue": "name", "message": "text"}')
        name = asked["queue"].encode("utf-8", "surrogatepass")
        key = key_for(name, hub.settings.prefix)
        if self._grant is not None and not self._grant.may_publish(name):
            raise BadRequest("the credential of this socket may not publish to this queue")
        message = publisher.check(hub, publisher.octets(asked["message"]))

        def done(receipts: list[publisher.Receipt], failed: object) -> None:
            if failed is None:
                self._say({**_id(request), "receipt": receipts[0]})
            else:
                self._say({**_id(request), "error": str(failed)})

        publisher.publish(hub, [(key, message)], done)

    def _queues(self, request: dict[str, Any], what: str) -> list[bytes]:
        names = request[what]
        if "subscribe" not in self._hub.settings.socket_allow:
            raise BadRequest(f"this socket may not {what}")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise BadRequest(f"{what} is a list of queue names")
        if len(names) > MOST_QUEUES:
            raise BadRequest(f"at most {MOST_QUEUES} queues can be waited for")
        octets = [name.encode("utf-8", "surrogatepass") for name in dict.fromkeys(names)]
        if self._grant is not None and not all(map(self._grant.may_poll, octets)):
            raise BadRequest("the credential of this socket may not poll this queue")
        return [key_for(name, self._hub.settings.prefix) for name in octets]

    def _subscribe(self, request: dict[str, Any]) -> None:
        hub = self._hub
        new = [key for key in self._queues(request, "subscribe") if key not in self.all_keys()]
        if len(self.all_keys()) + len(new) > MOST_QUEUES:
            raise BadRequest(f"at most {MOST_QUEUES} queues can be waited for")
        places = _places(request, new) if hub.settings.keep != "taken" and request.get("position") is not None else {}
        why = hub.why_not(new)
        if why:
            raise BadRequest(why)
        self._say({**_id(request), "subscribed": request["subscribe"]})
        for key in new:
            hub.lot.subscribe(self, key)
        self.stand_at(places)
        hub.joined(self, new)

    def _leave(self, request: dict[str, Any]) -> None:
        hub = self._hub
        keys = [key for key in self._queues(request, "leave") if key in self.all_keys()]
        if len(keys) == len(self.all_keys()):
            raise BadRequest("a socket waits for one queue at least: close it instead")
        for key in keys:
            hub.lot.unsubscribe(self, key)
        hub.left(self, keys)
        self._say({**_id(request), "left": request["leave"]})

    def _confirm(self, request: dict[str, Any]) -> None:
        hub = self._hub
        if hub.settings.keep != "confirmed":
            raise BadRequest("positions are confirmed where poll_keep = confirmed")

        def done(error: Exception | None) -> None:
            if error is not None:
                self._say({**_id(request), "error": str(error)})

        for key, place in _places(request, list(self.all_keys())).items():
            hub.store.trim(key, place, done)

    # -- over a reload -------------------------------------------------------------------------------------------

    def state(self) -> Any:
        """See Reader."""
        grant = None if self._grant is None else self._grant.plain()
        return self._protocol, self._ahead, self._parts, self._size, self._heard, self._waits, grant

    def restore(self, hub: Hub, state: Any) -> None:
        """See Reader."""
        self._hub = hub
        self._protocol, self._ahead, self._parts, self._size, self._heard, self._waits, grant = state
        self._grant = None if grant is None else Grant.restored(grant)
        if self._waits:
            asyncio.get_running_loop().call_soon(self._read_on)


def _id(request: Any) -> dict[str, Any]:
    """The part of an answer that says which request it is for."""
    return {"id": request["id"]} if isinstance(request, dict) and isinstance(request.get("id"), str | int) else {}


def _places(request: dict[str, Any], keys: list[bytes]) -> dict[bytes, bytes]:
    """The places of a request's position. Raises: BadPosition."""
    position = request["position"]
    return read_token(position.encode("utf-8", "replace") if isinstance(position, str) else b"", keys)


def wanted(exchange: Exchange) -> bool:
    """Whether a poll asks for a WebSocket. HTTP/1.0 knows no upgrade, and what it asks for is not listened to (RFC 9110 section 7.8)."""
    return exchange.request.minor > 0 and b"websocket" in _words(exchange, b"upgrade") and b"upgrade" in _words(exchange, b"connection")


def _words(exchange: Exchange, name: bytes) -> list[bytes]:
    return [word.strip().lower() for word in exchange.request.fields.get(name, b"").split(b",")]


def begin(hub: Hub, exchange: Exchange, keys: tuple[bytes, ...], places: dict[bytes, bytes], grant: Grant | None) -> None:
    """A client asks for a WebSocket (RFC 6455 section 4.2)."""
    fields, settings = exchange.request.fields, hub.settings
    key = fields.get(b"sec-websocket-key", b"")
    try:
        good = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        good = False
    if fields.get(b"sec-websocket-version") != b"13":
        # 426 would need an Upgrade field, which is of the hop: 400 is RFC 6455's own example (section 4.4).
        hub.refuse(exchange, 400, "WebSockets are of version 13 here.", (b"Sec-WebSocket-Version", b"13"))
    elif not good or exchange.method != b"GET":
        hub.refuse(exchange, 400, "This is no handshake of a WebSocket.")
    elif not cors.may_act(exchange, settings.origins):
        hub.refuse(exchange, 403, "Pages of this origin may not open a socket.")
    else:
        reader = Socket(keys, cors.origin_of(exchange, settings.origins))
        reader.ask(hub, key, grant)
        reader.stand_at(places)
        hub.admit_stream(exchange, reader, grant)
