"""What a request is called on its whole way: its id (X-Request-Id), and the trace that it belongs to (traceparent).

An id is taken from a peer that is trusted with the client's address, or made here: anybody else's could be anything, also another
request's. A trace is passed on as it came, whoever sent it, as the standard has it; it is begun where no valid one came and
`traceparent = begin`. Ids are no secrets: a name of this process and a number.
"""

import os
import re
from typing import Final

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16


class Numbering:
    """Makes the ids of a process: 32 hexadecimal digits, as nginx's."""

    __slots__ = ("_name", "_number")

    def __init__(self) -> None:
        self._name = os.urandom(10).hex().encode()
        self._number = 0

    def next(self) -> bytes:
        """An id that no request had before."""
        self._number += 1
        return b"%b%012x" % (self._name, self._number)


def is_id(said: bytes) -> bool:
    """Whether a peer's id can be taken: 1 to 128 characters of which none means anything in a log, a header field or a shell."""
    return _ID.fullmatch(said) is not None


def trace_of(traceparent: bytes) -> bytes:
    """The trace id in a traceparent; b"" if it is none. Source: W3C Trace Context, section 3.2."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == b"ff" or match[2] == _NO_TRACE or match[3] == _NO_PARENT or (match[1] == b"00" and match[4]):
        return b""
    return match[2]


def begun() -> bytes:
    """A traceparent of a new trace, to be recorded. Source: W3C Trace Context, section 3.2.2."""
    octets = os.urandom(24)
    return b"00-%b-%b-01" % (octets[:16].hex().encode(), octets[16:].hex().encode())
