"""Of which class of the queue a request is. It is asked when a request has to wait, once; who gets a connection at once has no class.

    high     its cookie says so (high_priority_cookie), or a plugin does (make_high_priority)
    low      a plugin says so (make_low_priority), and nobody said high

Source: Perlbal manual, high_priority_cookie. differs: a cookie's value is what follows the first "=", not the last; with no
high_priority_cookie_contents a request has to have the cookie, where in Perlbal every request is high; and a plugin's word counts
beside the cookie's.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

from pbal.model.exchange import Exchange
from pbal.roles import chain
from pbal.roles.proxy.seeker import HIGH, LOW, NORMAL
from pbal.roles.proxy.terms import Terms

CLASS_NAMES: Final = {HIGH: "high", NORMAL: "normal", LOW: "low"}


def priority_of(exchange: Exchange, terms: Terms) -> int:
    """HIGH, NORMAL or LOW."""
    if terms.high_cookie and has_cookie(exchange.request.fields.get(b"cookie", b""), terms.high_cookie, terms.high_contents):
        return HIGH
    hooks = exchange.service.hooks
    if hooks.make_high_priority and chain.any_says(hooks.make_high_priority, exchange):
        return HIGH
    if hooks.make_low_priority and chain.any_says(hooks.make_low_priority, exchange):
        return LOW
    return NORMAL


def has_cookie(header: bytes, name: bytes, contents: bytes) -> bool:
    """Whether a Cookie field has a cookie of that name whose value, unescaped, contains `contents`."""
    if not header:
        return False
    for pair in header.split(b";"):
        said, _, value = pair.strip(b" \t").partition(b"=")
        if unquote_to_bytes(said) == name and contents in unquote_to_bytes(value):
            return True
    return False
