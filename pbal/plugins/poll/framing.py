"""How messages lie in a stored value, one after another.

newline     each ends with LF                 hello\nthere\n
netstring   <length>:<octets>,                5:hello,5:there,
none        the value is one run of octets, as with XML fragments; it is never cut
"""

import re

FRAMINGS = ("newline", "netstring", "none")
_NETSTRING = re.compile(rb"(0|[1-9][0-9]{0,9}):")


def split(value: bytes, framing: str) -> tuple[list[bytes], bool]:
    """The messages of a value, without their framing, and whether all of it was framed as it should be.

    What is not framed comes out as one message: a fault of a writer must not lose what it wrote.
    """
    if not value:
        return [], True
    if framing == "newline":
        if not value.endswith(b"\n"):
            return [value], False
        return value[:-1].split(b"\n"), True
    if framing == "netstring":
        messages = _netstrings(value)
        return ([value], False) if messages is None else (messages, True)
    return [value], True


def _netstrings(value: bytes) -> list[bytes] | None:
    messages, place = [], 0
    while place < len(value):
        head = _NETSTRING.match(value, place)
        if head is None:
            return None
        end = head.end() + int(head[1])
        if value[end : end + 1] != b",":
            return None
        messages.append(value[head.end() : end])
        place = end + 1
    return messages


def wrap(message: bytes, framing: str) -> bytes:
    """A message as it is appended to a value."""
    if framing == "newline":
        return message if message.endswith(b"\n") else message + b"\n"
    if framing == "netstring":
        return b"%d:%b," % (len(message), message)
    return message


def framed_size(message: bytes, framing: str) -> int:
    """Octets of a message in a value, its framing included. `message` is one that split() found."""
    if framing == "newline":
        return len(message) + 1
    return len(message) + (len(b"%d:," % len(message)) if framing == "netstring" else 0)


def trim(value: bytes, limit: int, framing: str, newest: bytes = b"") -> tuple[bytes, int]:
    """The newest whole messages that fit into `limit` octets, and how many older ones went.

    A value that is one run of octets, or not framed, goes whole when it does not fit: half a message is none. Of it `newest` stays, what
    was added last. Only what goes is read: a full queue comes here with every message.
    """
    kept, dropped = _trim(value, limit, framing)
    return (newest, dropped) if not kept and len(newest) <= limit and value.endswith(newest) else (kept, dropped)


def _trim(value: bytes, limit: int, framing: str) -> tuple[bytes, int]:
    if len(value) <= limit or not limit:
        return value, 0
    if framing == "newline":
        if not value.endswith(b"\n"):
            return b"", 1
        start = value.find(b"\n", len(value) - limit - 1) + 1
        return value[start:], value.count(b"\n", 0, start)
    if framing == "none":
        return b"", 1
    start, dropped = 0, 0
    while len(value) - start > limit:
        head = _NETSTRING.match(value, start)
        end = len(value) if head is None else head.end() + int(head[1])
        if head is None or value[end : end + 1] != b",":
            return b"", dropped + 1
        start, dropped = end + 1, dropped + 1
    return value[start:], dropped


def refused(message: bytes, framing: str) -> str:
    """Why a message cannot be framed so that it comes back as it was; "" if it can."""
    if framing == "newline" and b"\n" in message.removesuffix(b"\n"):
        return "A message is one line here (poll_framing = newline); this one holds a line feed."
    return ""
