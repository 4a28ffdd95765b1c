"""A listening socket whose accepting can be paused and taken up again.

The kernel socket is ours and stays; uvloop's server works on a duplicate of it. When descriptors run short the
duplicate is closed: new connections then wait in the kernel's backlog instead of being accepted and dropped, and
accepting goes on when some have been given back.

A Unix socket is a file. One that nobody listens on any more is replaced, one that somebody listens on is an address in use, and what is no
socket is left alone. It has its owner and mode before it listens, so nobody comes in by the door between. At the end the file goes, if it
is still ours.

Keep-alive probes are set on the listening socket: on Linux every accepted connection inherits them, without a system
call for each.
"""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Callable
from math import ceil

from pbal.model.errors import ConfigError
from pbal.model.service import Service
from pbal.net.tasks import spawn
from pbal.observe.sockets import Kind, SocketInfo, listening
from pbal.schema import kinds
from pbal.schema.types import Endpoint

log = logging.getLogger("pbal.listener")

BACKLOG = 4096

PROBES = 3
PROBE_SECONDS = 10
"""What follows client_keepalive: a client that is gone is found out after that and half a minute."""


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Have the kernel probe a silent peer after `seconds` (rounded up to whole ones); 0: never."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(seconds))
    if seconds and hasattr(socket, "TCP_KEEPIDLE"):  # elsewhere the times of the system hold
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ceil(seconds))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


_UNKNOWN = (-1, None)
"""Mode and group of a file to which something was refused: neither is as it was said."""

_BUFFER_LOCK = 72
"""SO_BUF_LOCK of Linux 5.14 and later, which Python has no name for: whose choice the sizes of the buffers are."""


def send_buffer(sock: socket.socket, size: int) -> None:
    """Set the size of the send buffer, which connections that are accepted inherit; 0: it is the kernel's choice again. Raises: OSError."""
    if size:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    else:
        with contextlib.suppress(OSError):  # a kernel that has no such option: the size stays until the service listens anew
            sock.setsockopt(socket.SOL_SOCKET, _BUFFER_LOCK, 0)


def look_up(host: str) -> str:
    """The address of this machine that a name stands for: its first of IPv4, or of IPv6 where it has none. May take seconds.

    Raises: OSError.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


def bind(endpoint: Endpoint) -> socket.socket:
    """A bound, listening socket. An empty host is every address, IPv6 included where the machine has it.

    Raises: OSError.
    """
    if endpoint.path:
        return _bind_path(endpoint.path)
    host = look_up(endpoint.host) if endpoint.is_name else endpoint.host
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    try:
        return _bind(family, host or "::", endpoint.port)
    except OSError:
        if host:
            raise
        return _bind(socket.AF_INET, "0.0.0.0", endpoint.port)


def _bind_path(path: str) -> socket.socket:
    """A bound Unix socket that nobody can connect to yet: `admit` says who may, and lets it listen."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "there is a file that is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # who listens and accepts nothing would hold us up
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def admit(path: str, mode: int, group: str | None, usual: int) -> None:
    """Give the file of a Unix socket its mode and group, or the group that is usual, if none is said. Raises: OSError."""
    if group is not None:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    elif os.stat(path).st_gid != usual:
        os.chown(path, -1, usual)
    os.chmod(path, mode)


def _bind(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """The listener of one service."""

    def __init__(
        self, service: Service, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], former: "Listener | None" = None
    ) -> None:
        self.service = service
        self._former = former
        """Whose socket it goes on with: it owns the file of a Unix socket until this one takes over."""
        self._heir: Listener | None = None
        """Who goes on with this one's socket, or will: the file of a Unix socket stays, whichever of them is closed or takes over first."""
        self._sock = sock
        self._protocol = protocol
        self._server: asyncio.AbstractServer | None = None
        self._starting: asyncio.Task[None] | None = None
        self.born = service.world.second
        self.accepting = False
        self.wanted = service["listen"]
        """What its service said; the port is 0 there where the system chose one."""
        self.secured = service.certificates is not None
        """Whether it speaks TLS."""
        self._keepalive: float | None = None
        self._buffer = 0
        self._admitted: tuple[int, str | None] | None = None
        self._gid = -1
        """Of the file of a Unix socket: the group that it has where none is said."""
        self._file: tuple[int, int] | None = None
        """Of a Unix socket: which file it is, in case another pbal puts its own there."""
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            self.address = Endpoint(name, 0)
            if not self._handed(former):
                found = os.stat(name)
                self._file = found.st_dev, found.st_ino
                self._gid = found.st_gid if former is None else former._gid
        else:
            self.address = Endpoint(name[0] if name[0] != "::" else "", name[1])
        self.refresh()
        if former is not None:
            former._heir = self

    def _handed(self, former: "Listener | None") -> bool:
        """Whether a Unix socket was handed over: it listens already, and its file is not ours to change or remove."""
        if former is not None:
            return former._file is None
        return bool(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def refresh(self) -> None:
        """Bring the socket up to what tunables say now. What failed is done again with the next call. Raises: OSError."""
        if self._file is not None:
            self._admit()
        if self._sock.family == socket.AF_UNIX:
            return
        size = self.service.values["client_sndbuf_size"]
        if size != self._buffer:
            send_buffer(self._sock, size)
            self._buffer = size
        wanted = self.service.values["client_keepalive"]
        if wanted != self._keepalive:
            keep_alive(self._sock, wanted)
            self._keepalive = wanted

    def _admit(self) -> None:
        wanted = self.service.values["socket_mode"], self.service.values["socket_group"]
        if wanted != self._admitted:
            first, self._admitted = self._admitted is None, _UNKNOWN
            admit(self.address.path, *wanted, self._gid)
            if first:
                self._sock.listen(BACKLOG)
            self._admitted = wanted

    @property
    def serving(self) -> bool:
        """Whether connections are accepted now; `accepting` says that they shall be."""
        return self._server is not None

    def start(self) -> None:
        """Accept connections, from the next turn of the loop."""
        if not self.accepting:
            self.accepting = True
            self._starting = spawn(self, self._serve(), f"listen {self.address}")

    async def started(self) -> None:
        """Wait until connections are accepted. Raises: OSError if they cannot be."""
        if self._starting is not None:
            await self._starting

    async def _serve(self) -> None:
        if self._sock.fileno() < 0:  # closed in the turn in which it was started
            return
        duplicate = self._sock.dup()
        loop = asyncio.get_running_loop()
        server: asyncio.AbstractServer
        if duplicate.family != socket.AF_UNIX:
            server = await loop.create_server(self._protocol, sock=duplicate, backlog=BACKLOG)
        else:
            server = await loop.create_unix_server(self._protocol, sock=duplicate, backlog=BACKLOG)
        if self.accepting and self._sock.fileno() >= 0:
            self._server = server
        else:
            server.close()

    def pause(self) -> None:
        """Stop accepting; the kernel goes on queueing."""
        self.accepting = False
        if self._server is not None:
            self._server.close()
            self._server = None

    def take_over(self) -> None:
        """What was lent is this listener's own from now on."""
        if self._former is not None:
            self._former._file = None
            self._former = None

    def lend(self) -> socket.socket:
        """The same socket for another listener. Raises: OSError."""
        return self._sock.dup()

    def close(self) -> None:
        """Give the address back."""
        self.pause()
        self._sock.close()
        if self._former is not None:  # it did not take over
            self._former._heir = None
        elif self._file is not None and self._heir is None:
            with contextlib.suppress(OSError):  # it is gone already
                found = os.stat(self.address.path)
                if self._file == (found.st_dev, found.st_ino):
                    os.unlink(self.address.path)
        self._file = None

    def kind(self) -> Kind:
        """See observe.sockets."""
        return "TCPListener", "listening" if self.accepting else "paused", self.service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        return listening(self.kind(), self._sock.fileno(), self.service.world.second - self.born, str(self.address), self.accepting)


def listen(
    service: Service,
    protocol: Callable[[], asyncio.BaseProtocol],
    former: Listener | None = None,
    handed: socket.socket | None = None,
    found: str = "",
) -> Listener:
    """Bind the service's address, or go on with the socket of the listener that has it: what waits there to be accepted is not lost.
    `handed`: a socket that was bound to the address before pbal was started.

    `found` is what a name in it was looked up to be. Raises: ConfigError with the reason.
    """
    endpoint = service["listen"]
    try:
        given = former.lend() if former is not None else handed
        sock = given or bind(Endpoint(found, endpoint.port) if found else endpoint)
        try:
            return Listener(service, sock, protocol, former)
        except OSError:
            sock.close()
            if endpoint.path and given is None:
                os.unlink(endpoint.path)  # or it would stay there, with nobody behind it
            raise
    except OSError as error:
        message = f"Can't start service '{service.name}' on {endpoint}: {error.strerror or error}"
        raise ConfigError(message, about=service.name, kind=kinds.Kind.SYSTEM) from None
