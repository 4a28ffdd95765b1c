"""Which pages of other origins may poll, and what a browser has to be told so that they can (Fetch standard, CORS)."""

import re

from pbal.api import Exchange

Fields = list[tuple[bytes, bytes]]

_FIELD_NAMES = re.compile(rb"[A-Za-z0-9-]+(?:[ \t]*,[ \t]*[A-Za-z0-9-]+)*")


def origin_of(exchange: Exchange, allowed: frozenset[bytes]) -> bytes | None:
    """The origin to name in the answer; None if there is nothing to say."""
    if not allowed:
        return None
    if b"*" in allowed:
        return b"*"
    origin = exchange.request.fields.get(b"origin")
    return origin if origin in allowed else None


def fields_for(origin: bytes | None) -> Fields:
    """What lets a script of that origin read the answer."""
    if origin is None:
        return []
    fields = [(b"Access-Control-Allow-Origin", origin)]
    if origin != b"*":
        fields += [(b"Access-Control-Allow-Credentials", b"true"), (b"Vary", b"Origin")]
    return fields


def preflight(exchange: Exchange, origin: bytes, methods: bytes) -> Fields:
    """The fields that answer a preflight: these methods, and whatever header fields it asks for."""
    fields = [*fields_for(origin), (b"Access-Control-Allow-Methods", methods), (b"Access-Control-Max-Age", b"600")]
    asked = exchange.request.fields.get(b"access-control-request-headers", b"")
    if _FIELD_NAMES.fullmatch(asked):
        fields.append((b"Access-Control-Allow-Headers", asked))
    return fields
