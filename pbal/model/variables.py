"""Values of header fields, with variables in them: `$client by $http_user_agent`.

What a variable stands for came from strangers, but it is a value and nothing else: readers have refused what could end a line, and what
would be left of that is replaced here.
"""

import re
from collections.abc import Callable
from typing import Final

from pbal.model.conditions import values_of
from pbal.model.exchange import Exchange
from pbal.schema.kinds import BadValue

VARIABLE: Final = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)
"""`$$`, which is a dollar sign, `$name` or `${name}`."""
_ILLEGAL: Final = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_OF_REQUEST: Final = re.compile(r"http_([a-z0-9_]+)")

Getter = Callable[[Exchange], bytes]


def _tls(name: bytes) -> Getter:
    """What is known of the client's certificate."""

    def get(exchange: Exchange) -> bytes:
        tls = exchange.stream.tls
        return b"" if tls is None else dict(tls.client_fields()).get(name, b"")

    return get


def _version(exchange: Exchange) -> bytes:
    return b"" if exchange.stream.tls is None else exchange.stream.tls.version.encode()


def _cipher(exchange: Exchange) -> bytes:
    return b"" if exchange.stream.tls is None else exchange.stream.tls.cipher.encode()


def _server_name(exchange: Exchange) -> bytes:
    return b"" if exchange.stream.tls is None else exchange.stream.tls.server_name.encode()


VARIABLES: Final[dict[str, tuple[str, Getter]]] = {
    "client": ("the client's address; a trusted proxy names it", lambda exchange: exchange.client_address),
    "peer": ("the address at the other end of the connection", lambda exchange: exchange.stream.peer),
    "scheme": ("http or https, as the client has it", lambda exchange: exchange.scheme),
    "host": ("the host of the request, with its port where one was said", lambda exchange: exchange.request.host),
    "method": ("the method", lambda exchange: exchange.request.method),
    "target": ("the target of the request, as the client sent it", lambda exchange: exchange.request.target),
    "path": ("the path of it", lambda exchange: exchange.request.path),
    "id": ("the request's id", lambda exchange: exchange.request_id),
    "service": ("the service that has the request", lambda exchange: exchange.service.label),
    "tls": ("the protocol of TLS", _version),
    "tls_cipher": ("the cipher", _cipher),
    "tls_server_name": ("the host that the client named in the handshake", _server_name),
    "tls_verify": ("SUCCESS or NONE, where clients are asked for a certificate", _tls(b"X-SSL-Client-Verify")),
    "tls_subject": ("the subject of the client's certificate", _tls(b"X-SSL-Client-Subject")),
    "tls_issuer": ("its issuer", _tls(b"X-SSL-Client-Issuer")),
    "tls_serial": ("its serial number, in hexadecimal", _tls(b"X-SSL-Client-Serial")),
}
"""What a value may hold besides, and `$http_NAME`, a field of the request. In a configuration a `$` is written twice."""


def _field(name: bytes) -> Getter:
    between = b"; " if name == b"cookie" else b", "
    return lambda exchange: between.join(values_of(exchange, name))


def _getter(name: str, span: tuple[int, int]) -> Getter:
    known = VARIABLES.get(name)
    if known is not None:
        return known[1]
    field = _OF_REQUEST.fullmatch(name)
    if field is None:
        expected = "a variable such as $$client, $$host, $$scheme, $$id or $$http_origin"
        more = "; for a dollar sign write $$$$"
        near = tuple(f"${each}" for each in VARIABLES if each[:2] == name[:2])
        raise BadValue(f"expected {expected}, found '$${name}'{more}", expected=expected, span=span, instead=near)
    return _field(field[1].replace("_", "-").encode())


class Value:
    """The value of a field, with its variables."""

    __slots__ = ("_parts", "constant", "text")

    def __init__(self, text: str, variables: bool) -> None:
        """`variables`: whether `$name` stands for something. Raises: BadValue."""
        if any((ord(character) < 32 and character != "\t") or character == "\x7f" for character in text):
            raise BadValue("a field value cannot hold control characters", expected="a field value")
        self.text = text
        """As it was said."""
        self._parts: list[tuple[bytes, Getter | None]] = []
        place, last = 0, ""
        for match in VARIABLE.finditer(text) if variables else ():
            last += text[place : match.start()]
            place = match.end()
            if match[1]:
                last += "$"
                continue
            self._parts.append((last.encode("utf-8", "surrogateescape"), _getter(match[2] or match[3], match.span())))
            last = ""
        self._parts.append(((last + text[place:]).encode("utf-8", "surrogateescape"), None))
        self.constant: bytes | None = self._parts[0][0].strip(b" \t") if len(self._parts) == 1 else None
        """What it is for every request; None where that differs."""

    def fill(self, exchange: Exchange) -> bytes:
        """What it is for a request; b"" where nothing is known of what it names."""
        if self.constant is not None:
            return self.constant
        parts: list[bytes] = []
        for text, getter in self._parts:
            parts.append(text)
            if getter is not None:
                parts.append(getter(exchange))
        return _ILLEGAL.sub(b"?", b"".join(parts)).strip(b" \t")
