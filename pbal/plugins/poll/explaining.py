"""What `explain` says of a request: a poll, on which queues, by which transport; a publish, to where. It looks, and asks no store."""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pbal.api import Exchange, Explanation

from . import cors, events, sockets
from .names import BadName, query_values, queues_of

if TYPE_CHECKING:
    from .hub import Hub


def explain(hub: "Hub", exchange: Exchange) -> Explanation | None:
    """See Plugin.explain; None for a path that is neither for polls nor for publishing."""
    settings = hub.settings
    if settings.paths.first(exchange.path) < 0:
        return None
    match = settings.uri.search(exchange.path)
    if match is not None:
        return Explanation(_poll(hub, exchange, match), takes=True)
    match = None if settings.publish_uri is None else settings.publish_uri.search(exchange.path)
    return None if match is None else Explanation(_publish(hub, exchange, match), takes=True)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def _is_preflight(hub: "Hub", exchange: Exchange) -> bool:
    return exchange.method == b"OPTIONS" and bool(hub.settings.origins) and b"origin" in exchange.request.fields


def _poll(hub: "Hub", exchange: Exchange, match: re.Match[bytes]) -> list[str]:
    settings = hub.settings
    if _is_preflight(hub, exchange):
        return ["a preflight of a poll: answered at once (poll_allow_origin)"]
    if exchange.method not in settings.methods:
        return [f"a path of polls (poll_uri), and no method of theirs: 405; poll_methods are {_text(b' '.join(settings.methods))}"]
    transport = "a WebSocket" if sockets.wanted(exchange) else "a stream of events" if events.wanted(exchange) else "a long poll"
    try:
        keys = queues_of(settings.sources, exchange, match, settings.prefix)
    except BadName as error:
        if exchange.request.framing:
            return [f"{transport}; its queues are named in the body"]
        return [f"{transport}, and 400: {error}"]
    words = []
    for key in keys:
        name = _text(key[len(settings.prefix) :])
        waiting = hub.lot.number(key)
        words.append(f"{transport} on queue {name}: {waiting or 'nobody'} waiting, poll_duplicate = {settings.duplicate}")
    if settings.auth.kind != "off":
        words.append(f"poll_auth = {settings.auth} decides whether it may")
    if settings.max_parked and hub.lot.count >= settings.max_parked:
        words.append(f"503: {hub.lot.count} are parked (poll_max_parked)")
    return words


def _publish(hub: "Hub", exchange: Exchange, match: re.Match[bytes]) -> list[str]:
    settings = hub.settings
    if _is_preflight(hub, exchange):
        return ["a preflight of a publish: answered at once (poll_allow_origin)"]
    if exchange.method not in (b"POST", b"GET", b"DELETE"):
        return ["a path for publishing (poll_publish_uri), which takes POST, GET and DELETE: 405"]
    if exchange.client_address not in settings.publish_from:
        return [f"403: {_text(exchange.client_address)} may not publish (poll_publish_from)"]
    if not cors.may_act(exchange, settings.origins):
        return ["403: pages of this origin may not publish (poll_allow_origin)"]
    names = list(dict.fromkeys(query_values(exchange.request.query, b"q")))
    if not names:
        named = unquote_to_bytes(match.groupdict().get(settings.publish_group) or b"")
        names = [named] if named else []
    verb = {b"POST": "a publish to", b"GET": "a look at", b"DELETE": "messages are dropped of"}[exchange.method]
    words = [f"{verb} queue {_text(name)}: {hub.lot.number(settings.prefix + name) or 'nobody'} waiting" for name in names]
    if settings.auth.kind != "off":
        words.append(f"poll_auth = {settings.auth} decides whether it may")
    return words or [f"{verb} queues that the body names"]
