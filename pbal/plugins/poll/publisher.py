"""Publishing over HTTP: messages in, and what is known of a queue out.

    POST    the body is a message for the queue of the path
    POST    ?q=a&q=b: for each of these queues
    POST    application/json, a list of {"queue": "a", "message": "..."}, where the path names no queue: a receipt each
    GET     what is known of the queue; with * or ? in its name, of all that match
    DELETE  empties the queue; ?position= drops what lies before it; ?readers=end tells who waits 410

What a store refuses for good (a message that is too long) is 413; that it fails now is 503. Of several messages each has its
receipt, and the answer's status is that of the first that failed.
"""

import json
import re
from collections.abc import Callable
from fnmatch import translate
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from pbal.api import Exchange

from . import cors
from .auth import Action, Decision, Gate, Refusal
from .delivery import REMOVED
from .formats import is_xml, text
from .framing import refused, split, wrap
from .hub import NO_STORE, Hub
from .kept import BEGINS_ALIKE
from .names import BadName, key_for, query_values
from .positions import BadPosition, read_token, token
from .presence import Facts
from .store import Seen, StoreError, TooLarge

JSON = (b"Content-Type", b"application/json")
METHODS = b"DELETE, GET, POST"
MOST_MESSAGES = 1000
"""Messages, or queues, of one request."""
MOST_LISTED = 10000
"""Queues of one list."""

Receipt = dict[str, Any]
"""What a publisher is told of one message, as JSON has it."""


class Refused(ValueError):
    """A message that is not taken. The text is for the client."""

    status = 400


class TooLong(Refused):
    """A message that no queue here has room for."""

    status = 413


def allowed(hub: Hub, exchange: Exchange) -> bool:
    """Whether this request may publish; it is answered if it may not."""
    settings = hub.settings
    if hub.preflight(exchange, METHODS, "publish"):
        return False
    if exchange.method not in (b"POST", b"GET", b"DELETE"):
        hub.refuse(exchange, 405, "This path takes POST, GET and DELETE.", (b"Allow", METHODS))
        return False
    if exchange.client_address not in settings.publish_from:
        hub.refuse(exchange, 403, "Your address may not publish.")
        return False
    if not cors.may_act(exchange, settings.origins):
        hub.refuse(exchange, 403, "Pages of this origin may not publish.")
        return False
    return True


def begin(hub: Hub, gate: Gate | None, exchange: Exchange, match: re.Match[bytes]) -> None:
    """A request on the publish path, its body read. Raises: BadName, Refused."""
    settings = hub.settings
    names = list(dict.fromkeys(query_values(exchange.request.query, b"q")))
    if not names:
        named = unquote_to_bytes(match.groupdict().get(settings.publish_group) or b"")
        names = [named] if named else []
    if len(names) > MOST_MESSAGES:
        raise Refused(f"{len(names)} queues; at most {MOST_MESSAGES} in one request")
    do: Callable[[Hub], None]
    if exchange.method == b"POST":
        messages = _messages(hub, exchange, names)
        alone = len(names) <= 1 and len(messages) == 1
        concerned = [name for name, _ in messages]
        do = partial(_publish, exchange, messages, alone)
    elif exchange.method == b"GET" and len(names) == 1 and re.search(rb"[*?]", names[0]):
        concerned = names
        do = partial(_list, exchange, names[0])
    else:
        concerned = names or [b""]
        keys = [key_for(name, settings.prefix) for name in concerned]
        do = partial(_facts if exchange.method == b"GET" else _delete, exchange, keys)
    if gate is None:
        do(hub)
    else:
        gate.judge(exchange, Action.PUBLISH, tuple(dict.fromkeys(concerned)), partial(_judged, hub, exchange, do))


def _judged(hub: Hub, exchange: Exchange, do: Callable[[Hub], None], decision: Decision) -> None:
    """poll_auth has decided, perhaps after a reload."""
    serving = hub.serving()
    if isinstance(decision, Refusal):
        serving.turn_away(exchange, decision)
    elif not serving.open:
        serving.refuse(exchange, 503, "Messages are not taken here any more.", (b"Retry-After", b"1"))
    else:
        answer_mistakes(serving, exchange, lambda: do(serving))


def answer_mistakes(hub: Hub, exchange: Exchange, do: Callable[[], None]) -> None:
    """Do something with a request; what is wrong with it is its answer."""
    try:
        do()
    except Refused as error:
        hub.refuse(exchange, error.status, str(error))
    except (BadName, BadPosition) as error:
        hub.refuse(exchange, 400, str(error))


def _publish(exchange: Exchange, messages: list[tuple[bytes, bytes]], alone: bool, hub: Hub) -> None:
    """Store what a request brought."""
    keyed = [(key_for(name, hub.settings.prefix), message) for name, message in messages]
    publish(hub, keyed, lambda receipts, failed: _receipts(hub, exchange, receipts, failed, alone))


# -- messages in -------------------------------------------------------------------------------------------------


def _messages(hub: Hub, exchange: Exchange, names: list[bytes]) -> list[tuple[bytes, bytes]]:
    """(queue name, message) pairs that a request brings. Raises: BadName, Refused."""
    body = exchange.read_body()
    media_type = exchange.request.fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    if not names and media_type == b"application/json":
        messages = [(name, check(hub, message)) for name, message in _list_of(body)]
    elif names:
        message = check(hub, body)
        messages = [(name, message) for name in names]
    else:
        raise BadName("the request names no queue")
    for name, _ in messages:
        key_for(name, hub.settings.prefix)
    return messages


def _list_of(body: bytes) -> list[tuple[bytes, bytes]]:
    try:
        items = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON") from None
    if not isinstance(items, list) or not items or len(items) > MOST_MESSAGES:
        raise Refused(f'the body is a list of 1 to {MOST_MESSAGES} {{"queue": ..., "message": ...}}')
    found = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("queue"), str) or not isinstance(item.get("message"), str):
            raise Refused('each item of the list is {"queue": "name", "message": "text"}')
        found.append((item["queue"].encode("utf-8", "surrogatepass"), octets(item["message"])))
    return found


def octets(message: str) -> bytes:
    """A message that came as a string of JSON. Raises: Refused."""
    try:
        return message.encode()
    except UnicodeEncodeError:
        raise Refused("A message is text; this one holds half of a surrogate pair.") from None


def check(hub: Hub, message: bytes) -> bytes:
    """A message that can be delivered as it is. Raises: Refused with the reason."""
    settings = hub.settings
    if not message:
        raise Refused("A message needs at least one byte.")
    if message.startswith(BEGINS_ALIKE):
        raise Refused("A message does not begin with NUL, 1 and a space: a queue's header does.")
    why = refused(message, settings.framing)
    if why:
        raise Refused(why)
    if settings.format == "xml" and not is_xml(message):
        raise Refused("A message is well-formed XML here (poll_format = xml), and holds no DTD; this one is not.")
    size = len(wrap(message, settings.framing))
    if size > settings.max_queue:
        raise TooLong(f"The message is too long: {size} bytes with its framing, and a queue holds {settings.max_queue} (poll_max_queue).")
    return message


def publish(hub: Hub, messages: list[tuple[bytes, bytes]], done: Callable[[list[Receipt], StoreError | None], None]) -> None:
    """Store messages, each whole or not; `done` is called once with a receipt for each, and the first failure."""
    receipts: list[Receipt] = [{} for _ in messages]
    failed: list[StoreError] = []
    one = _when_all(len(messages), lambda: done(receipts, failed[0] if failed else None))

    def stored(number: int, key: bytes, error: StoreError | BadPosition | None) -> None:
        receipt = receipts[number]
        if isinstance(error, StoreError):
            hub.forget_start(key)
            hub.counts["poll_publish_failed"] += 1
            receipt["error"] = str(error)
            failed.append(error)
        else:
            hub.counts["poll_published"] += 1
            if hub.world.tracer is not None:
                hub.trace("published", [key], None, f"{receipt['bytes']} bytes")
        if hub.settings.presence and not receipt["present"]:  # perhaps at another pbal
            hub.presence.find(key, lambda facts: finished(receipt | present(hub, facts), number))
        else:
            finished(receipt, number)

    def finished(receipt: Receipt, number: int) -> None:
        receipts[number] = receipt
        one()

    prefix = len(hub.settings.prefix)
    framed: dict[bytes, bytes] = {}
    for number, (key, message) in enumerate(messages):
        parked = hub.lot.number(key)
        receipts[number].update(queue=text(key[prefix:]), bytes=len(message), parked=parked, **present(hub, hub.presence.here(key)))
        if parked:
            hub.note_start(key)
        data = framed.get(message) or framed.setdefault(message, wrap(message, hub.settings.framing))  # one, for however many queues
        hub.store.append(key, data, lambda error, number=number, key=key: stored(number, key, error))  # type: ignore[misc]


def receipt_line(receipt: Receipt | list[Receipt]) -> bytes:
    """A receipt, or several, as a line."""
    return json.dumps(receipt).encode() + b"\n"


def _reply(hub: Hub, exchange: Exchange, status: int, value: Receipt | list[Receipt]) -> None:
    """Answer with JSON."""
    origin = cors.fields_for(cors.origin_of(exchange, hub.settings.origins))
    exchange.respond(status, [JSON, NO_STORE, *origin], receipt_line(value))


def _when_all(number: int, then: Callable[[], None]) -> Callable[[], None]:
    """What is called so often, and calls `then` the last time."""
    left = number

    def one() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    return one


def _receipts(hub: Hub, exchange: Exchange, receipts: list[Receipt], failed: StoreError | None, alone: bool) -> None:
    """Answer a publisher."""
    if failed is not None and alone:
        if isinstance(failed, TooLarge):
            hub.refuse(exchange, 413, f"The message is too long: {failed}.")
        else:
            hub.refuse(exchange, 503, f"The store does not take it: {failed}.", (b"Retry-After", b"1"))
        return
    status = 202 if failed is None else 413 if isinstance(failed, TooLarge) else 503
    _reply(hub, exchange, status, receipts[0] if alone else receipts)


# -- what is known of queues -------------------------------------------------------------------------------------


def _facts(exchange: Exchange, keys: list[bytes], hub: Hub) -> None:
    """Answer what is known of queues: of one as an object, of several as a list."""
    found: list[Receipt] = [{} for _ in keys]

    def answer() -> None:
        status = 503 if any("error" in each for each in found) else 200
        _reply(hub, exchange, status, found[0] if len(found) == 1 else found)

    one = _when_all(len(keys), answer)

    def seen(number: int, key: bytes, what: Seen | StoreError) -> None:
        if isinstance(what, StoreError):
            found[number] = {**known(hub, key), "error": str(what)}
        else:
            found[number] = facts(hub, key, what)
        if hub.settings.presence:
            hub.presence.find(key, lambda who: finished(number, present(hub, who)))
        else:
            finished(number, {})

    def finished(number: int, who: Receipt) -> None:
        found[number] |= who
        one()

    for number, key in enumerate(keys):
        hub.store.look(key, lambda what, number=number, key=key: seen(number, key, what))  # type: ignore[misc]


def known(hub: Hub, key: bytes) -> Receipt:
    """What this process knows of a queue without asking the store."""
    found: Receipt = {"queue": text(key[len(hub.settings.prefix) :]), "parked": hub.lot.number(key)}
    return found | present(hub, hub.presence.here(key))


def present(hub: Hub, facts: Facts) -> Receipt:
    """Who is at a queue, where poll_presence is on."""
    if not hub.settings.presence:
        return {}
    return {"present": facts.present, "count": facts.count, "last_seen": round(facts.seen, 3) if facts.seen else None}


def facts(hub: Hub, key: bytes, what: Seen) -> Receipt:
    """What is known of a queue."""
    messages, _ = split(what.value, hub.settings.framing)
    found = {**known(hub, key), "messages": len(messages), "bytes": len(what.value)}
    if what.place is not None:
        found["position"] = token([what.place]).decode()
    return found


def _list(exchange: Exchange, glob: bytes, hub: Hub) -> None:
    """Answer which queues somebody waits for here, or (memory) hold something, whose names match."""
    pattern = re.compile(translate(glob.decode("utf-8", "replace")).encode())
    skip = len(hub.settings.prefix)
    keys = dict.fromkeys((*hub.lot.queues(), *hub.presence.names(), *hub.store.names()))
    matching = sorted(key for key in keys if pattern.match(key, skip))
    answer: Receipt = {"queues": [known(hub, key) for key in matching[:MOST_LISTED]]}
    if len(matching) > MOST_LISTED:
        answer["left_out"] = len(matching) - MOST_LISTED
    _reply(hub, exchange, 200, answer)


def _delete(exchange: Exchange, keys: list[bytes], hub: Hub) -> None:
    """Empty queues, or drop what lies before a position. Raises: BadPosition."""
    query = exchange.request.query
    asked = next(query_values(query, b"position"), None)
    places = {} if asked is None else read_token(asked, keys)
    end = next(query_values(query, b"readers"), b"") == b"end"
    failed: list[StoreError | BadPosition] = []

    def answer() -> None:
        if failed:
            status = 400 if isinstance(failed[0], BadPosition) else 503
            hub.refuse(exchange, status, str(failed[0]))
            return
        if end:
            hub.finish_all(list(dict.fromkeys(reader for key in keys for reader in hub.lot.waiting(key))), REMOVED)
        exchange.respond(204, [NO_STORE, *cors.fields_for(cors.origin_of(exchange, hub.settings.origins))])

    one = _when_all(len(keys), answer)

    def done(error: StoreError | BadPosition | None) -> None:
        if error is not None:
            failed.append(error)
        one()

    for key in keys:
        hub.store.trim(key, places.get(key), done)
