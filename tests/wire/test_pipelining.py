"""Many requests at once on one connection: in order, in bounded memory, and not at the cost of others."""

import asyncio
import socket

import pytest
from lab import Lab, lab, read_response, until

from pbal.net.connection import READ_AHEAD

CONF = """
    LOAD poll
    CREATE SERVICE site
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET docroot          = {folder}
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
    ENABLE site
"""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/missing", "/file"])
def test_thousands_of_requests_in_one_write_are_answered_in_order(path):
    @lab
    async def run(lab: Lab) -> None:
        (lab.folder / "file").write_bytes(b"f" * 100)
        pbal = await lab.pbal(CONF.format(folder=lab.folder))
        reader, writer = await pbal.connect("site")
        writer.write(get(path) * 3000 + get("/poll/me") + get("/last"))
        for _ in range(3000):
            assert (await read_response(reader)).status == (404 if path == "/missing" else 200)
        await pbal.until("poll_parked", 1)
        publish = b"POST /publish/me HTTP/1.1\r\nHost: c\r\nContent-Length: 1\r\n\r\nm"
        assert (await pbal.ask("site", publish)).status == 202
        assert (await read_response(reader)).body == b"m\n"
        assert (await read_response(reader)).status == 404
        assert pbal.counts["requests"] == 3003

    run()


@lab
async def test_others_are_answered_between_the_requests_of_one(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(folder=lab.folder))
    seen: list[int] = []
    _, flood = await pbal.connect("site")
    reader, writer = await pbal.connect("site")
    await until(lambda: pbal.counts["clients"] == 2, "both to be accepted")
    flood.write(get("/missing") * 5000)
    for _ in range(20):
        writer.write(get("/other"))
        await read_response(reader)
        seen.append(pbal.counts["requests"])
    await pbal.until("requests", 5020)
    assert seen[0] < 5000, "the second client had its first answer before the first client had all of its"


@lab
async def test_a_client_that_reads_no_answers_is_not_read_either(lab: Lab) -> None:
    (lab.folder / "file").write_bytes(b"f" * 10_000)
    pbal = await lab.pbal(CONF.format(folder=lab.folder))
    host, port = pbal.server.address("site")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (host, port))
    await until(lambda: pbal.world.clients, "the connection")
    (client,) = pbal.world.clients
    sending = asyncio.create_task(loop.sock_sendall(sock, get("/missing") * 500_000))
    await until(lambda: not client.transport.is_reading() and client.transport.get_write_buffer_size(), "the server to stop reading")
    requests = -1
    while requests != pbal.counts["requests"]:  # until nothing moves any more
        requests = pbal.counts["requests"]
        for _ in range(100):
            await asyncio.sleep(0)
    assert not sending.done()
    assert client.transport.get_write_buffer_size() < pbal.world.service("site")["buffer_size"] + 65536
    assert client.reader.buffered < READ_AHEAD + 300_000
    sending.cancel()
    sock.close()
    await until(lambda: pbal.counts["clients"] == 0, "the connection to be gone")
