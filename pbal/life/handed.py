"""Sockets that somebody bound and handed over: systemd's socket activation.

A service whose `listen` is the address of such a socket listens on it and binds nothing, so pbal needs no right to the port, and while
it is started anew, connections wait in the socket's queue and none is refused. Each listener gets a duplicate: after DISABLE and ENABLE
the socket is there again. What no service wants when pbal starts is said and closed, for clients would wait on it for ever.

Source: sd_listen_fds(3).
"""

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from pbal.schema.types import Endpoint

FIRST = 3
"""The descriptor of the first one."""

EVERYWHERE = frozenset({"", "::", "0.0.0.0"})


@dataclass(frozen=True, slots=True)
class HandedSocket:
    """One of them. `name` is what the unit calls it."""

    sock: socket.socket
    address: Endpoint
    name: str


class Handed:
    """All that were handed over and are good to listen on."""

    def __init__(self) -> None:
        self.sockets: list[HandedSocket] = []
        self.odd: list[str] = []
        """What else came, in words."""
        self._used: set[int] = set()

    def add(self, descriptor: int, name: str) -> None:
        """Look at a descriptor; what cannot be listened on is closed."""
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            self.odd.append(f"descriptor {descriptor} ({name}) is no socket: {error.strerror}")
            return
        sock.set_inheritable(False)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self.odd.append(
                f"descriptor {descriptor} ({name}) is no socket that listens for connections (is it Accept=yes, or a datagram?)"
            )
            sock.close()
            return
        sock.setblocking(False)
        self.sockets.append(HandedSocket(sock, address_of(sock), name))

    def take(self, wanted: Endpoint) -> socket.socket | None:
        """A duplicate of the socket that listens on an address; None if there is none."""
        ports = [handed for handed in self.sockets if handed.address.port == wanted.port]
        exact = [handed for handed in ports if handed.address.host == wanted.host]
        everywhere = [handed for handed in ports if {handed.address.host, wanted.host} <= EVERYWHERE]
        for handed in (*exact, *everywhere):
            self._used.add(handed.sock.fileno())
            return handed.sock.dup()
        return None

    def unused(self) -> list[HandedSocket]:
        """Those that nobody took; they are closed, and forgotten."""
        left = [handed for handed in self.sockets if handed.sock.fileno() not in self._used]
        self.sockets = [handed for handed in self.sockets if handed not in left]
        for handed in left:
            handed.sock.close()
        return left

    def close(self) -> None:
        """Close all; the duplicates live on."""
        for handed in self.sockets:
            handed.sock.close()
        self.sockets.clear()


def address_of(sock: socket.socket) -> Endpoint:
    """Where a socket listens; of a Unix socket its path, with port 0."""
    name = sock.getsockname()
    if isinstance(name, (str, bytes)):
        return Endpoint(os.fsdecode(name), 0)
    return Endpoint(str(name[0]), int(name[1]))


def handed_over(environment: MutableMapping[str, str]) -> Handed:
    """As the environment says it; call it before a fork: the sockets are for the process that was started."""
    number, process = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    handed = Handed()
    if number.isdecimal() and process == str(os.getpid()):
        for place in range(int(number)):
            handed.add(FIRST + place, names[place] if place < len(names) else "unknown")
    return handed
