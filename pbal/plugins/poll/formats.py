"""What a poll is answered with."""

import base64
import json
from collections.abc import Sequence

from .framing import split

FORMATS = ("raw", "lines", "xml", "json")
# What a double-quoted XML attribute cannot hold as it is. xml.sax has it too, and 16 ms of imports that start-up would pay.
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
Queues = Sequence[tuple[bytes, bytes]]
"""(queue name, stored value) pairs."""

_TYPES = {
    "raw": b"application/octet-stream",
    "lines": b"text/plain; charset=utf-8",
    "xml": b"application/xml; charset=utf-8",
    "json": b"application/json",
}


def render(form: str, queues: Queues, framing: str) -> tuple[int, bytes, bytes, bool]:
    """Status, media type, body, and whether every value was framed as it should be. No queues: the empty answer."""
    good = True
    if form == "raw":
        body = b"".join(value for _, value in queues)
        return (200 if body else 204), _TYPES[form], body, all(split(value, framing)[1] for _, value in queues)
    parts: list[tuple[bytes, list[bytes]]] = []
    for name, value in queues:
        messages, framed = split(value, framing)
        good = good and framed
        parts.append((name, messages))
    if form == "lines":
        body = b"".join(message.replace(b"\n", b" ") + b"\n" for _, messages in parts for message in messages)
    elif form == "xml":
        body = b"<messages>%b</messages>" % b"".join(_xml_queue(name, messages) for name, messages in parts)
    else:
        body = json.dumps({"queues": {_text(name): [_json(m) for m in messages] for name, messages in parts}}).encode()
    return 200, _TYPES[form], body, good


def _xml_queue(name: bytes, messages: list[bytes]) -> bytes:
    return b'<queue name="%b">%b</queue>' % (_text(name).translate(_ESCAPED).encode(), b"".join(messages))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _json(message: bytes) -> str | dict[str, str]:
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(message).decode()}
