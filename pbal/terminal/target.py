"""Where a console is: an address, a socket, what a configuration says, or the customary ports."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PORT: Final = 16000
CUSTOMARY: Final = (PORT, 60000)
"""The ports of Perlbal's manual and of its examples."""
_ANYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a listener on all addresses is reached from here."""


class BadTarget(Exception):
    """No address can be made of it; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, seconds: float) -> socket.socket:
        """A connection, which notices within a minute that the other machine is gone. Raises: OSError."""
        if self.path:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(seconds)
                sock.connect(self.path)
            except OSError:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((self.host, self.port), timeout=seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return sock


def parsed(text: str) -> Address:
    """HOST:PORT, [IPV6]:PORT, HOST, PORT, or a path, which has a '/' in it. Raises: BadTarget."""
    if text.startswith("unix:"):
        return Address(path=text.removeprefix("unix:"))
    if "/" in text:
        return Address(path=text)
    if text.isdecimal():
        return Address("127.0.0.1", _port(text, text))
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadTarget(f"expected [IPV6]:PORT, found '{text}'")
        return Address(_ANYWHERE.get(host, host), _port(rest[1:], text) if rest else PORT)
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "")
    return Address(_ANYWHERE.get(host, host), _port(port, text) if port else PORT)


def _port(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise BadTarget(f"expected a port from 1 to 65535, found '{text}' in '{whole}'")
    return int(text)


def customary() -> list[Address]:
    """Where to look when nothing was said."""
    return [Address("127.0.0.1", port) for port in CUSTOMARY]


def of_configuration(path: str) -> Address:
    """The first management service of a configuration. Its mistakes are not told here. Raises: BadTarget, OSError."""
    from pbal.commands.interpreter import Interpreter
    from pbal.model.world import World

    world = World()
    Interpreter(world).run_file(path)
    for service in world.services.values():
        if service.role == "management" and service["listen"] is not None:
            return _listening(path, str(service["listen"]))
    raise BadTarget(f"{path} has no service of role management with a listen address")


def _listening(path: str, listen: str) -> Address:
    if listen.startswith("unix:"):
        return Address(path=str(Path(path).resolve().parent / listen.removeprefix("unix:")))
    if listen.endswith(":0"):
        raise BadTarget(f"{path} lets the system choose the console's port: say HOST:PORT")
    return parsed(listen)
