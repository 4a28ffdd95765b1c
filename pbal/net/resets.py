"""Whether a peer has reset a connection, of whom nothing is read and to whom nothing is written.

A loop watches a descriptor for what it is to do with it. Where that is nothing, an upload that waits for its node or an answer
awaited after the client's end, a reset goes by unseen; the kernel knows of it all the same.
"""

import asyncio
import errno
import socket
from typing import Final

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)  # Linux; elsewhere nobody is told before the next read or write
_TCP_CLOSE: Final = 7
"""The first octet of struct tcp_info, where nothing is left of a connection: linux/tcp_states.h."""


def was_reset(transport: asyncio.BaseTransport) -> bool:
    """Look at the socket. One system call."""
    sock = transport.get_extra_info("socket")
    if _TCP_INFO is None or sock is None:
        return False
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _TCP_CLOSE)
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.ENOPROTOOPT)  # a Unix socket: its end is seen as any other's
