"""One configuration in Debian's Perlbal and in pbal: LazyCDN, FlvStreaming and Palimg answer the same.

AtomStream and AtomInject are not in that package. What differs on purpose (pbal-perlbal(7)) is not asked for here.
"""

import asyncio
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from lab import Lab, free_port, lab, read_response
from pictures import COLOURED, GREY, colours, paint
from scripted import Scripted, Taken, answer, get

CONF = """
LOAD FlvStreaming
LOAD LazyCDN
CREATE POOL videos
  POOL videos ADD {node}
CREATE SERVICE tube
  SET role = reverse_proxy
  SET listen = 127.0.0.1:{tube}
  SET pool = videos
  SET plugins = FlvStreaming
ENABLE tube
CREATE SERVICE edge
  SET role = web_server
  SET listen = 127.0.0.1:{edge}
  SET docroot = {folder}
  SET plugins = LazyCDN
  SET fallback_service = tube
  SET fallback_udp_ping_addr = 127.0.0.1:9
ENABLE edge
"""
PICTURES = """
LOAD Palimg
CREATE SERVICE pictures
  SET role = web_server
  SET listen = 127.0.0.1:{pictures}
  SET docroot = {folder}
  SET plugins = Palimg
ENABLE pictures
"""
VIDEO = bytes(range(200))
TARGETS = [
    ("tube", "/a.flv?start=190"), ("tube", "/a.flv?x=1&start=7"), ("tube", "/a.flv?start=0"), ("tube", "/a.flv"),
    ("tube", "/a.mp4?start=7"),
    ("edge", "/a.css"), ("edge", "/a.css?v=999999"), ("edge", "/a.css?v=1000001"), ("edge", "/a.css?rev=1000001"), ("edge", "/none"),
    ("edge", "/a.css?v=1000001&b=2"), ("edge", "/none?v=5"),
]  # fmt: skip
PAINTED = [
    "a.gif", "a.gif/pg00ff00000f0000ff", "a.gif/pg08ff0000020000ff", "a.gif/ptff0000", "c.gif/ptff000000ff00", "c.gif/pt123456",
    "a.gif/p0ff0000100ff00", "a.gif/pfff0000",
]  # fmt: skip


async def video(taken: Taken) -> None:
    """A node that knows ranges."""
    while True:
        begin = re.search(rb"\r\nRange: bytes=(\d+)-\r\n", await taken.request(), re.IGNORECASE)
        if begin is None:
            taken.say(answer(VIDEO, "Content-Type: application/octet-stream"))
        else:
            rest = VIDEO[int(begin[1]) :]
            part = f"Content-Range: bytes {begin[1].decode()}-199/200\r\nContent-Type: application/octet-stream"
            head = f"HTTP/1.1 206 Partial Content\r\n{part}\r\nContent-Length: {len(rest)}\r\n\r\n"
            taken.say(head.encode() + rest)


async def asked(port: int, target: str) -> tuple[int, str, bytes]:
    """Status, media type and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get(target, "Connection: close"))
    said = await read_response(reader)
    writer.close()
    return said.status, said.fields.get("content-type", "").partition(";")[0], said.body


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def of_perlbal(conf: Path, ports: dict[str, int], wanted: list[tuple[str, str]]) -> list[tuple[int, str, bytes]]:
    """What Perlbal answers."""
    process = await asyncio.create_subprocess_exec(
        "perlbal", "-c", str(conf), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for port in ports.values():
            while not await listens(port):
                assert process.returncode is None, "Perlbal ended"
                await asyncio.sleep(0.02)
        return [await asked(ports[service], target) for service, target in wanted]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.skipif(shutil.which("perlbal") is None, reason="perlbal is not installed: apt-get install perlbal")
@lab
async def test_the_plugins_answer_as_perlbals_do(lab: Lab) -> None:
    text, wanted = CONF, TARGETS
    ports = {"tube": free_port(), "edge": free_port()}
    if find_spec("PIL") is not None:
        (lab.folder / "palimg").mkdir()
        paint(lab.folder / "palimg/a.gif", GREY)
        paint(lab.folder / "palimg/c.gif", COLOURED)
        text, wanted = text + PICTURES, [*wanted, *(("pictures", f"/palimg/{target}") for target in PAINTED)]
        ports["pictures"] = free_port()
    (lab.folder / "a.css").write_text("old")
    os.utime(lab.folder / "a.css", (1_000_000, 1_000_000))
    node = (await Scripted.start(lab, video)).address
    conf = lab.folder / "both.conf"
    conf.write_text(text.format(node=node, folder=lab.folder, **ports))
    async with asyncio.timeout(60):
        theirs = await of_perlbal(conf, ports, wanted)
    await lab.pbal(conf.read_text())
    ours = [await asked(ports[service], target) for service, target in wanted]
    for (service, target), their, our in zip(wanted, theirs, ours, strict=True):
        if service == "pictures":  # the octets of the packed picture are the library's
            their, our = (*their[:2], repr(colours(their[2])).encode()), (*our[:2], repr(colours(our[2])).encode())
        assert our == their, (service, target)
    assert {status for status, _, _ in ours} == {200} and len({body for _, _, body in ours}) >= 4
