"""What a listening socket gives to the connections that are accepted from it."""

import socket

import pytest
from lab import Pbal, lab, until

SITE = """
    CREATE SERVICE site
      SET role    = {role}
      SET listen  = 127.0.0.1:0
      {more}
    ENABLE site
"""


async def probes(pbal: Pbal) -> tuple[int, int, int, int]:
    """What the kernel does for a connection made now: probes at all, after how long, how often, how many."""
    before = set(pbal.world.clients)
    _, writer = await pbal.connect("site")
    (client,) = await until(lambda: set(pbal.world.clients) - before, "the connection")
    sock = client.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    writer.close()
    return on, idle, interval, count


@pytest.mark.parametrize(("role", "more"), [("web_server", "SET docroot = ."), ("management", "")])
@lab
async def test_accepted_connections_have_keep_alive_probes(lab, role, more):
    pbal = await lab.pbal(SITE.format(role=role, more=more))
    assert await probes(pbal) == (1, 60, 10, 3)


@lab
async def test_client_keepalive_is_heard_live(lab):
    pbal = await lab.pbal(SITE.format(role="web_server", more="SET docroot = ."))
    assert await pbal.say("SET site client_keepalive = 1500ms") == "OK"
    assert await probes(pbal) == (1, 2, 10, 3)
    assert await pbal.say("SET site client_keepalive = 0") == "OK"
    assert (await probes(pbal))[0] == 0


async def send_buffer(pbal: Pbal) -> int:
    """The send buffer of a connection made now, as the kernel counts: twice what was asked for."""
    before = set(pbal.world.clients)
    _, writer = await pbal.connect("site")
    (client,) = await until(lambda: set(pbal.world.clients) - before, "the connection")
    size: int = client.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    writer.close()
    return size


@lab
async def test_client_sndbuf_size_is_heard_by_new_connections(lab):
    pbal = await lab.pbal(SITE.format(role="web_server", more="SET docroot = .\n      SET client_sndbuf_size = 20k"))
    assert await send_buffer(pbal) == 2 * 20480
    assert await pbal.say("SET site.client_sndbuf_size = 30k") == "OK"
    assert await send_buffer(pbal) == 2 * 30720
    assert await pbal.say("UNSET site.client_sndbuf_size") == "OK"
    await send_buffer(pbal)


@lab
async def test_client_keepalive_set_in_the_file_holds_from_the_start(lab):
    pbal = await lab.pbal(SITE.format(role="web_server", more="SET docroot = .\n      SET client_keepalive = 5m"))
    assert await probes(pbal) == (1, 300, 10, 3)
