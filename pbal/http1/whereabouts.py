"""Where a head went wrong: which octet is the first that cannot stand there. Asked when a message is refused, and never before.

The readers say whether a head is one, with a few regexes over all of it; which octet it is that no head has, they do not know. Here the
grammar of RFC 9112 sections 3 and 5 is walked once more: the good lines in one step, however many they are, and the wrong one an element
at a time, up to the octet where it ends. What is refused for what it means (a second Host, a length that is none) is looked for by the
name of its field. Where there is too much of something no octet is to blame, and nothing is looked for.
"""

import re
from typing import Final

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]"
_TOKEN: Final = re.compile(TOKEN + rb"*+")
_VALUE: Final = re.compile(VALUE + rb"*+")
_GOOD: Final = re.compile(rb"(?:%b++:%b*+\r\n)*+" % (TOKEN, VALUE))
_TARGET: Final = re.compile(rb"[!\"$-~]*+")
_DIGIT: Final = re.compile(rb"[0-9]?")
_THREE: Final = re.compile(rb"[0-9]{0,3}")
_NAMED: Final = re.compile(r"(?:more than one )?(Host|Content-Length|Transfer-Encoding|Connection|Expect)\b")
_TOO_MUCH: Final = re.compile(r"too many |.* too (?:large|long)$")
_NO_DIGIT: Final = re.compile(rb"[^0-9]")

Element = tuple["re.Pattern[bytes]", int] | bytes
"""A pattern and how many octets of it there are at least; or octets that stand there as they are."""

_VERSION: Final[tuple[Element, ...]] = (b"HTTP/", (_DIGIT, 1), b".", (_DIGIT, 1))
_REQUEST_LINE: Final[tuple[Element, ...]] = ((_TOKEN, 1), b" ", (_TARGET, 1), b" ", *_VERSION, b"\r\n")
_STATUS_LINE: Final[tuple[Element, ...]] = (*_VERSION, b" ", (_THREE, 3))
_FIELD: Final[tuple[Element, ...]] = ((_TOKEN, 1), b":", (_VALUE, 0), b"\r\n")


def _walk(head: bytes, at: int, elements: tuple[Element, ...]) -> tuple[int, bool]:
    """How far the elements go from `at`, and whether all of them are there."""
    for element in elements:
        if isinstance(element, bytes):
            for octet in element:
                if head[at : at + 1] != bytes((octet,)):
                    return at, False
                at += 1
        else:
            pattern, least = element
            found = pattern.match(head, at)
            assert found is not None  # each may be empty
            if found.end() - at < least:
                return found.end(), False
            at = found.end()
    return at, True


def first_wrong(head: bytes, reason: str, response: bool) -> int:
    """Where in a head, or the beginning of one, the octet is that it was refused for, from 0; -1 if no octet is to blame."""
    if _TOO_MUCH.match(reason):
        return -1
    at, whole = _walk(head, 0, _STATUS_LINE if response else _REQUEST_LINE)
    if whole and response and head[at : at + 1] == b" ":
        at, whole = _walk(head, at, ((_VALUE, 0), b"\r\n"))
    elif whole and response:
        at, whole = _walk(head, at, (b"\r\n",))
    if whole:
        good = _GOOD.match(head, at)
        assert good is not None  # it may be empty
        at = good.end()
        if at < len(head) and head[at : at + 2] != b"\r\n":
            at, whole = _walk(head, at, _FIELD)
    if not whole:
        return at if at < len(head) else -1
    named = _NAMED.match(reason)
    return -1 if named is None else _in_field(head[:at], named[1].encode(), reason)


def _in_field(head: bytes, name: bytes, reason: str) -> int:
    """Where the value of the last field of that name begins, or its first octet that is no digit where one is asked for."""
    lines = list(re.finditer(rb"^" + name + rb":[\t ]*+([^\r\n]*)", head, re.IGNORECASE | re.MULTILINE))
    if not lines:
        return -1
    value = lines[-1]
    if "number" in reason:
        wrong = _NO_DIGIT.search(value[1])
        return value.start(1) + (wrong.start() if wrong is not None else 0)
    return value.start(1) if value[1] else -1
