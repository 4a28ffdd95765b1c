"""Services under TLS for tests, nodes under TLS, and clients of Python's ssl."""

import asyncio
import contextlib
import ssl

from authority import Authority, Pair
from lab import Handler, Lab, Pbal

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def get(path: str = "/page", *fields: str, host: str = "a.test", method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", f"Host: {host}", *fields, "", ""]).encode()


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """A client's context. `pair`: its certificate."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if pair is not None:
        context.load_cert_chain(pair.file, pair.key_file)
    return context


async def secure(pbal: Pbal, service: str, context: ssl.SSLContext, name: str | None = "a.test") -> Streams:
    """A connection under TLS. `name`: the host named in the handshake."""
    host, port = pbal.server.address(service)
    if name is None:
        context.check_hostname = False
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name or "")
    pbal._writers.append(writer)
    return reader, writer


def files(*pairs: Pair) -> str:
    return f"""
          SET enable_ssl    = on
          SET ssl_cert_file = {" ".join(str(pair.file) for pair in pairs)}
          SET ssl_key_file  = {" ".join(str(pair.key_file) for pair in pairs)}"""


async def site(lab: Lab, *pairs: Pair, more: str = "", role: str = "web_server") -> Pbal:
    (lab.folder / "page").write_text("a page")
    return await lab.pbal(f"""
        CREATE SERVICE site
          SET role    = {role}
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
          {files(*pairs)}
          {more}
        ENABLE site
    """)


async def proxy(lab: Lab, handler: Handler, *pairs: Pair, more: str = "") -> Pbal:
    origin = await lab.origin(handler)
    return await lab.pbal(f"""
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE site
          SET role    = reverse_proxy
          SET listen  = 127.0.0.1:0
          SET pool    = app
          {files(*pairs) if pairs else ""}
          {more}
        ENABLE site
    """)


async def echo_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that answers with the head it got."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def secure_origin(lab: Lab, pair: Pair, handshakes: list[bool], go: asyncio.Event | None = None) -> str:
    """A node under TLS; `handshakes` gets whether each was resumed. A request for /wait waits for `go`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.file, pair.key_file)

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handshakes.append(writer.get_extra_info("ssl_object").session_reused)
        with contextlib.suppress(EOFError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if go is not None and b"/wait" in head:
                    await go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
                if b"/close" in head:
                    writer.close()

    server = await asyncio.start_server(app, "127.0.0.1", 0, ssl=context)
    lab.keep(server)
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def to_nodes(lab: Lab, node: str, more: str) -> Pbal:
    return await lab.pbal(f"""
        CREATE POOL app
          POOL app ADD {node}
        CREATE SERVICE site
          SET role        = reverse_proxy
          SET listen      = 127.0.0.1:0
          SET pool        = app
          SET ssl_backend = on
          {more}
        ENABLE site
    """)
