"""LazyCDN: what goes to the fallback, what is told of it by datagram, and where the fallback is not what it should be."""

import asyncio
import os
import socket

from lab import DEADLINE, Lab, Pbal, lab, read_response
from scripted import OK, Scripted, Taken, get

CONF = """
    LOAD LazyCDN
    CREATE POOL origins
      POOL origins ADD {origin}
    CREATE SERVICE edge
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET docroot          = {folder}
      SET plugins          = lazycdn
      SET fallback_service = Origin
      {more}
    ENABLE edge
    CREATE SERVICE origin
      SET role = reverse_proxy
      SET pool = origins
    ENABLE origin
"""


async def start(lab: Lab, more: str = "") -> Pbal:
    async def answer(taken: Taken) -> None:
        while True:
            await taken.request()
            taken.say(OK)

    (lab.folder / "there.css").write_text("old")
    os.utime(lab.folder / "there.css", (1_000_000, 1_000_000))
    origin = await Scripted.start(lab, answer)
    return await lab.pbal(CONF.format(origin=origin.address, folder=lab.folder, more=more))


def pinged() -> tuple[socket.socket, str]:
    """A socket for datagrams, and its address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


@lab
async def test_what_is_missing_or_too_old_goes_to_the_fallback_and_is_told(lab: Lab) -> None:
    sock, address = pinged()
    pbal = await start(lab, f"SET fallback_udp_ping_addr = {address}")
    reader, writer = await pbal.connect("edge")
    for target, body in [
        ("/there.css", b"old"), ("/there.css?v=1000000", b"old"), ("/there.css?v=1000001", b"ok"), ("/none?a=1", b"ok"),
        ("/there.css?rev=1000001", b"old"), ("/there.css?v=1000001x", b"old"), ("/there.css?a&v=9" + "9" * 14, b"ok"),
    ]:  # fmt: skip
        writer.write(get(target))
        assert (await read_response(reader)).body == body, target
    writer.write(get("/none", method="HEAD"))
    assert (await read_response(reader, head_only=True)).status == 200
    loop = asyncio.get_running_loop()
    told = [await asyncio.wait_for(loop.sock_recv(sock, 9999), DEADLINE) for _ in range(4)]
    assert told == [b"/there.css?v=1000001", b"/none?a=1", b"/there.css?a&v=9" + b"9" * 14, b"/none"]
    assert pbal.counts["lazycdn_handed_on"] == 4 and pbal.counts["lazycdn_pings_lost"] == 0
    assert await pbal.say("RELOAD lazycdn") == "OK"
    writer.write(get("/after"))
    assert (await read_response(reader)).body == b"ok"
    assert await asyncio.wait_for(loop.sock_recv(sock, 9999), DEADLINE) == b"/after"
    config = await pbal.say("dumpconfig")
    assert "SET fallback_service = Origin" in config and f"SET fallback_udp_ping_addr = {address}" in config
    sock.close()


@lab
async def test_several_files_in_one_go_to_the_fallback_together(lab: Lab) -> None:
    (lab.folder / "new.css").write_text("new")
    os.utime(lab.folder / "new.css", (2_000_000, 2_000_000))
    pbal = await start(lab, "SET enable_concatenate_get = on")
    reader, writer = await pbal.connect("edge")
    for target, body in [
        ("/??there.css,new.css?v=2000000", b"oldnew"), ("/??there.css,new.css?v=2000001", b"ok"), ("/??there.css,none.css", b"ok"),
    ]:  # fmt: skip
        writer.write(get(target))
        assert (await read_response(reader)).body == body, target
    assert pbal.counts["lazycdn_handed_on"] == 2


@lab
async def test_a_fallback_that_cannot_answer_is_as_good_as_none(lab: Lab) -> None:
    pbal = await start(lab)
    reader, writer = await pbal.connect("edge")

    async def status(target: str = "/none") -> int:
        writer.write(get(target))
        return (await read_response(reader)).status

    assert await status() == 200
    assert await pbal.say("SET edge.fallback_udp_ping_addr = 127.0.0.1:9") == "OK"
    assert await pbal.say("DISABLE origin") == "OK" and await status() == 503
    assert await pbal.say("SET edge.fallback_service = nobody") == "OK" and await status() == 404
    assert await pbal.say("CREATE SERVICE nobody") == "OK" and await status() == 404
    for statement, said in [
        ("SET edge.fallback_service = edge", "would hand requests to itself"),
        ("SET edge.fallback_udp_ping_addr = example.com:80", "expected an address and a port such as 10.0.0.20:7000"),
        ("SET edge.fallback_udp_ping_addr = 127.0.0.1", "expected an address and a port"),
        ("DROP SERVICE nobody", "plugin lazycdn sends requests of 'edge' to it: see SET edge.fallback_service"),
        ("SET edge.fallback_servce = origin", "did you mean 'fallback_service'"),
    ]:
        assert said in await pbal.say(statement), statement
    assert await status() == 404 and await status("/there.css") == 200
