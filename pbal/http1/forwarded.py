"""Forwarded (RFC 7239): read, and written.

    elements()   what each proxy on the way said of whom it got the request from, the client's first
    element()    what this one says

A value that is none is None, whatever part of it is wrong: half of what a proxy says about a client is a guess about the rest.
"""

import ipaddress
import re
from typing import Final

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR: Final = re.compile(rb"[ \t]*(" + _TOKEN + rb")=(?:(" + _TOKEN + rb')|"((?:[^"\\]|\\.)*)")[ \t]*')
_ESCAPED: Final = re.compile(rb"\\(.)")
_PLAIN: Final = re.compile(_TOKEN)
MOST: Final = 64
"""Elements that are looked at; more are no way that a request went."""


def elements(value: bytes) -> list[dict[bytes, bytes]] | None:
    """The elements, each with its parameters by lower-case name. None for a value that is none, or has too many."""
    found: list[dict[bytes, bytes]] = []
    one: dict[bytes, bytes] = {}
    place, end = 0, len(value)
    while True:
        match = _PAIR.match(value, place)
        if match is None:
            return None
        name, token, quoted = match.groups()
        name = name.lower()
        if name in one:  # RFC 7239 section 4: each at most once
            return None
        one[name] = token if token is not None else _ESCAPED.sub(rb"\1", quoted)
        place = match.end()
        sign = value[place : place + 1]
        if sign != b";":
            found.append(one)
            one = {}
            if place == end:
                return found
            if sign != b"," or len(found) == MOST:
                return None
        place += 1


def address(node: bytes) -> bytes:
    """The address of a node identifier, without its port; b"" where it is unknown, obfuscated or none (RFC 7239 section 6)."""
    host = node
    if node.startswith(b"["):
        host = node[1:].partition(b"]")[0]
    elif b":" in node:
        host = node.partition(b":")[0]
    try:
        return str(ipaddress.ip_address(host.decode("ascii"))).encode()
    except ValueError:
        return b""


def element(peer: bytes, host: bytes, proto: bytes) -> bytes:
    """An element. `peer`: an address as text; what is none is unknown. `host` and `proto` are left out where they are b""."""
    plain = address(b"[%b]" % peer if b":" in peer else peer)
    node = b"unknown" if not plain else b'"[%b]"' % plain if b":" in plain else plain
    parts = [b"for=" + node]
    if host:
        parts.append(b"host=" + _value(host))
    if proto:
        parts.append(b"proto=" + proto)
    return b";".join(parts)


def _value(text: bytes) -> bytes:
    """As a token, or quoted."""
    if _PLAIN.fullmatch(text):
        return text
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
