"""Who is at the other end of a console's connection: an address, or the user of a Unix socket, as the kernel tells."""

import asyncio
import socket
import struct
from typing import Final

from pbal.net.linger import peer_name

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""


def identity(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """For people `127.0.0.1:4711`, or `uid 0, pid 17`; and what a pause after a wrong password goes by: the address, or the user."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return peer_name(transport), str(name[0])
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or sock is None or sock.family != socket.AF_UNIX:
        return peer_name(transport), peer_name(transport)
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return f"uid {uid}, pid {pid}", f"uid {uid}"
