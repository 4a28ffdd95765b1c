"""A web_server with a docroot in a folder that holds a secret too, and requests to it."""

import asyncio
import socket
from pathlib import Path

from lab import Lab, Pbal


def get(path: str | bytes, *fields: str, method: str = "GET") -> bytes:
    """A request without a body."""
    target = path.encode() if isinstance(path, str) else path
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method.encode(), target), b"Host: h", *(field.encode() for field in fields), b"", b""])


async def docroot(lab: Lab, *statements: str) -> tuple[Path, Pbal]:
    """An empty docroot, and a pbal whose service `site` serves it as `statements` say."""
    folder = lab.folder / "docroot"
    folder.mkdir()
    (lab.folder / "secret").write_text("secret")
    service = f"CREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {folder}\n"
    return folder, await lab.pbal(service + "\n".join((*statements, "ENABLE site")))


async def slow_socket(address: tuple[str, int], request: bytes) -> socket.socket:
    """A client with a small window that has sent its request, and reads nothing by itself."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    await loop.sock_sendall(sock, request)
    return sock
