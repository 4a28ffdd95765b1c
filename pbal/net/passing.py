"""Octets of a file straight to a plain socket: sendfile(2), behind what stands before them.

What is sent so is not copied: the kernel's queue has the pages of the file. So nobody may change it (see model/openfiles.py), and
nothing may wait in the transport, which would have to go out before. MSG_MORE keeps the kernel from sending a head as a segment of its
own, and from waking the reader for it.
"""

import ctypes
import os
import socket
import sys
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_send = _libc.send
_send.restype = ctypes.c_ssize_t
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)

USABLE: Final = sys.platform == "linux"
_FLAGS: Final[int] = (socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | getattr(socket, "MSG_MORE", 0)) if USABLE else 0


def pass_head(number: int, head: bytes) -> int:
    """Send a head that octets follow on a socket: how many of it went out. 0 where the peer takes none, or has gone."""
    return max(0, int(_send(number, head, len(head), _FLAGS)))


def pass_file(number: int, fd: int, at: int, size: int) -> int:
    """Send octets of a file on a socket: how many went out. 0 where the peer takes none, or has gone: what is written next meets that."""
    try:
        return os.sendfile(number, fd, at, size)
    except OSError:
        return 0
