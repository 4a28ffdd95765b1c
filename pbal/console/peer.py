"""Who is at the other end of a console's connection: an address, or the user of a Unix socket, as the kernel tells. And what every
connection of a console is in lists, and to the tick, whether it speaks lines or HTTP.
"""

import asyncio
import socket
import struct
from math import inf
from typing import Any, Final

from pbal.model.service import Service
from pbal.net.linger import local_port, peer_name
from pbal.observe.sockets import Kind, SocketInfo

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


class Manager(asyncio.Protocol):
    """A connection of a management service."""

    management = True

    def __init__(self, service: Service, born: int) -> None:
        self.service = service
        self.born = born
        self.transport: Any = None
        self.deadline = inf
        self.state = "waiting"
        self.requests = 0
        self.peer_name = "unknown"
        """Address and port, or the user of a Unix socket."""

    @property
    def home(self) -> Service:
        """The listener's service."""
        return self.service

    def expired(self, now: float) -> None:
        """Its time is over."""
        self.transport.abort()

    def shutdown(self, graceful: bool) -> None:
        """Close, after what was written has gone out if graceful."""
        if graceful:
            self.transport.close()
        else:
            self.transport.abort()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return "ClientManage", self.state, self.service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        sock = self.transport.get_extra_info("socket")
        return SocketInfo(
            fd=sock.fileno() if sock is not None else -1,
            age=self.service.world.second - self.born,
            class_name="ClientManage",
            state=self.state,
            service=self.service.name,
            peer=self.peer_name,
            before={"localport": local_port(self.transport), "reqs": self.requests},
        )
