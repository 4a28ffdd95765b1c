"""What a poll is answered with.

raw     the stored octets, one after another        lines   one message a line
xml     <messages><queue name="a">...</queue></messages>, messages as they are: they are XML already
json    {"queues": {"a": ["..."]}}

A message that is no XML would make an XML answer that nobody can read: it is escaped, and counted as not framed as it should be.
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from .framing import split

FORMATS = ("raw", "lines", "xml", "json")
# What a double-quoted XML attribute cannot hold as it is. xml.sax has it too, and 16 ms of imports that start-up would pay.
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
_NOT_IN_XML = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\ufffd")
_PLAIN = re.compile(rb"[\t\n -%'-;=-~]*")
"""Text that is XML as it is: no parser has to look."""
Queues = Sequence[tuple[bytes, bytes]]
"""(queue name, stored value) pairs."""

_TYPES = {
    "raw": b"application/octet-stream",
    "lines": b"text/plain; charset=utf-8",
    "xml": b"application/xml; charset=utf-8",
    "json": b"application/json",
}


class Rendered(NamedTuple):
    """An answer's parts."""

    status: int
    media_type: bytes
    body: bytes
    misframed: bool
    """Whether a value was not framed as it should be."""


def render(
    form: str, queues: Queues, framing: str, position: bytes = b"", gaps: Sequence[bytes] = (), superseded: bool = False
) -> Rendered:
    """An answer with these messages. No queues: the empty answer, which raw and lines give as 409 where it is `superseded`."""
    if form == "raw":
        body = b"".join(value for _, value in queues)
        good = all(split(value, framing)[1] for _, value in queues)
        return Rendered(409 if superseded else 200 if body else 204, _TYPES[form], _told(body, superseded), not good)
    parts = [(name, *split(value, framing)) for name, value in queues]
    misframed = not all(good for _, _, good in parts)
    if form == "lines":
        body = b"".join(message.replace(b"\n", b" ") + b"\n" for _, messages, _ in parts for message in messages)
        return Rendered(409 if superseded else 200, _TYPES[form], _told(body, superseded), misframed)
    if form == "xml":
        whole = {message: is_xml(message) for _, messages, _ in parts for message in messages}
        inside = b"".join(_xml_queue(name, [m if whole[m] else _escaped(m) for m in messages]) for name, messages, _ in parts)
        start = b'<messages superseded="true">' if superseded else b"<messages>"
        return Rendered(200, _TYPES[form], b"%b%b</messages>" % (start, inside), misframed or not all(whole.values()))
    answer: dict[str, object] = {"queues": {text(name): [json_message(m) for m in messages] for name, messages, _ in parts}}
    if position:
        answer["position"] = position.decode()
    if gaps:
        answer["gap"] = [text(name) for name in gaps]
    if superseded:
        answer["superseded"] = True
    return Rendered(200, _TYPES[form], json.dumps(answer).encode(), misframed)


def _told(body: bytes, superseded: bool) -> bytes:
    return b"A newer poll waits for this queue.\n" if superseded else body


def is_xml(message: bytes) -> bool:
    """Whether a message can stand inside an element: well-formed, and without a DTD."""
    if _PLAIN.fullmatch(message):
        return True
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        fromstring(b"<m>%b</m>" % message, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        return False
    return True


def _escaped(message: bytes) -> bytes:
    return message.decode("utf-8", "replace").translate(_NOT_IN_XML).translate(_ESCAPED).encode()


def _xml_queue(name: bytes, messages: list[bytes]) -> bytes:
    return b'<queue name="%b">%b</queue>' % (text(name).translate(_ESCAPED).encode(), b"".join(messages))


def attribute(value: str) -> str:
    """A text as it stands in an attribute of XML."""
    return value.translate(_NOT_IN_XML).translate(_ESCAPED)


def text(name: bytes) -> str:
    """A queue's name for people and JSON."""
    return name.decode("utf-8", "replace")


def json_message(message: bytes) -> str | dict[str, str]:
    """A message as a JSON value: a string, or {"base64": ...} for what is not UTF-8."""
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(message).decode()}


def sse_message(message: bytes) -> bytes:
    """A message as the data of an event, with the empty line behind it. One that is not UTF-8 is {"base64": ...}, as in JSON."""
    try:
        lines = message.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError:
        lines = [json.dumps(json_message(message))]
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
