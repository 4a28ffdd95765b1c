"""Which pages of other origins may poll, and what a browser has to be told so that they can (Fetch standard, CORS)."""

import re
from urllib.parse import quote_from_bytes

from pbal.api import Exchange

Fields = list[tuple[bytes, bytes]]

_FIELD_NAMES = re.compile(rb"[!#$%&'*+.^_`|~A-Za-z0-9-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~A-Za-z0-9-]+)*")
"""A list of tokens (RFC 9110 section 5.6.2)."""
_AMBIENT = re.compile(rb"(?:basic|digest|negotiate|ntlm)\b", re.IGNORECASE)
"""Credentials that a browser keeps and sends by itself. Others a page has to know."""
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}


def origin_of(exchange: Exchange, allowed: frozenset[bytes]) -> bytes | None:
    """The origin to name in the answer; None if there is nothing to say."""
    if not allowed:
        return None
    origin = exchange.request.fields.get(b"origin")
    if origin in allowed:  # also beside `*`: only who is named gets answers to requests with credentials
        return origin
    return b"*" if b"*" in allowed else None


def may_act(exchange: Exchange, allowed: frozenset[bytes]) -> bool:
    """Whether the page that sent this may publish, or open a socket: browsers let any page do so, and name it in Origin.

    It may if it came from the same scheme and host as the request, or is one of `allowed`. What is no browser sends no Origin.
    """
    origin = exchange.request.fields.get(b"origin")
    if origin is None or b"*" in allowed or origin in allowed:
        return True
    scheme = exchange.scheme
    host = exchange.request.host or b""
    if exchange.believed:
        host = exchange.request.fields.get(b"x-forwarded-host", b"").split(b",")[0].strip() or host
    port = _DEFAULT_PORT[scheme]
    return origin.lower().removesuffix(port) == b"%b://%b" % (scheme, host.lower().removesuffix(port))


def forget_ambient(exchange: Exchange, allowed: frozenset[bytes]) -> None:
    """Take from a request what a browser has added by itself for a page that is not named: it would act as whoever looks at it.

    That page is of another site, as browsers say (Fetch Metadata, Sec-Fetch-Site), or only `*` lets it in. Browsers keep answers to such
    requests from the page, but for a socket's; and what was done is done: a message that was taken is gone.
    """
    fields = exchange.request.fields
    origin = fields.get(b"origin")
    if origin in allowed:
        return
    of_any = b"*" in allowed and origin is not None and not may_act(exchange, allowed - {b"*"})
    if not of_any and fields.get(b"sec-fetch-site") != b"cross-site":
        return
    if b"cookie" in fields:
        exchange.set_field(b"Cookie", None)
    if _AMBIENT.match(fields.get(b"authorization", b"")):
        exchange.set_field(b"Authorization", None)


def quoted(name: bytes) -> bytes:
    """A queue's name as it stands in a field: percent-coded."""
    return quote_from_bytes(name, safe="").encode()


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
