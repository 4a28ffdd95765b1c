"""AtomInject and AtomStream: who gets which items, who is too slow and told so, and what a RELOAD in the middle changes: nothing."""

import asyncio
import re
import socket
import sys

import pytest
from lab import DEADLINE, Lab, Pbal, Response, lab, read_response, transport_of, until
from scripted import get

CONF = """
    LOAD AtomStream
    LOAD AtomInject
    CREATE SERVICE updates
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = AtomStream
      {more}
    ENABLE updates
    CREATE SERVICE publishers
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = AtomInject
    ENABLE publishers
"""


class Stream:
    """A reader of a stream: all that it was sent, without the times."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""
        self.text = b""

    @classmethod
    async def of(cls, pbal: Pbal, path: str, version: str = "1.1") -> "Stream":
        before = pbal.counts["atom_streams"]
        stream = cls(*await pbal.connect("updates"))
        stream.writer.write(get(path, version=version))
        stream.head = await stream.reader.readuntil(b"\r\n\r\n")
        await until(lambda: pbal.counts["atom_streams"] > before, "it to read")
        return stream

    async def more(self) -> bool:
        """Read a chunk; False at the end."""
        if b"chunked" not in self.head:
            data = await self.reader.read(65536)
        else:
            size = int(await self.reader.readline(), 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
        self.text += data
        return bool(data)

    async def upto(self, what: bytes) -> bytes:
        """Read until it was sent this; all that it was sent, without the times."""
        async with asyncio.timeout(DEADLINE):
            while what not in self.text:
                assert await self.more(), self.text
        return re.sub(rb"<time>\d+</time>\n", b"", self.text)


async def put(pbal: Pbal, path: str, body: bytes) -> Response:
    head = f"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    return await pbal.ask("publishers", head.encode() + body)


def prolog(since: int = 0) -> bytes:
    return b"<?xml version='1.0' encoding='utf-8' ?>\n<atomStream>\n<!-- since=%d -->\n" % since


@lab
async def test_items_go_to_those_who_read_at_their_path_or_above(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(more=""))
    everything, blogs, anna = [await Stream.of(pbal, f"{path}/atom-stream.xml") for path in ("", "/blogs", "/blogs/%61nna")]
    old = await Stream.of(pbal, "/blogs/anna/atom-stream.xml", version="1.0")
    assert b"Content-Type: text/xml\r\n" in anna.head and b"no-store" in anna.head
    for path, body in [
        ("/blogs/anna/7", b"<entry>1</entry>"), ("/blogs", b"2\n"), ("/blogs2", b"3"), ("/blogs/annabel", b"4"), ("/blogs//anna", b"5"),
        ("/", b"<?xml version='1.0'?><entry>6</entry>"),
    ]:  # fmt: skip
        assert (await put(pbal, path, body)).status == 200
    last = b"<entry>6</entry>\n"
    assert await everything.upto(last) == prolog() + b"<entry>1</entry>\n2\n3\n4\n5\n" + last
    assert await blogs.upto(b"5\n") == prolog() + b"<entry>1</entry>\n2\n4\n5\n"
    assert await anna.upto(b"5\n") == await old.upto(b"5\n") == prolog() + b"<entry>1</entry>\n5\n"
    await anna.upto(b"<time>")
    assert pbal.counts["atom_items"] == 6 and pbal.counts["atom_items_missed"] == 0
    assert "atom bytes going round" in await pbal.say("show limits")
    assert await pbal.say("DISABLE updates") == "OK"
    for stream in (everything, blogs, anna, old):
        assert (await stream.upto(b"</atomStream>")).endswith(b"</atomStream>\n")
    assert pbal.counts["atom_streams"] == 0


@lab
async def test_who_comes_back_gets_what_came_since(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(more="SET atom_stream_buffer = 1k"))
    first = await Stream.of(pbal, "/atom-stream.xml")
    await put(pbal, "/a", b"1")
    await first.upto(b"1\n")
    now = int(pbal.world.clock.epoch())
    again = await Stream.of(pbal, f"/atom-stream.xml?since={now - 1}")
    await put(pbal, "/a", b"2")
    text = await again.upto(b"2\n")
    assert text.startswith(prolog(now - 1)) and text.endswith(b"1\n2\n") and text.count(b"1\n2\n") == 1
    early = await Stream.of(pbal, "/atom-stream.xml?since=5")
    assert b"nothing is kept of before " in await early.upto(b"2\n")
    other = await Stream.of(pbal, f"/b/atom-stream.xml?since={now - 1}")
    await put(pbal, "/b", b"x" * 900)
    await put(pbal, "/b", b"y" * 900)
    assert b"1\n" not in await other.upto(b"y\n")
    late = await Stream.of(pbal, f"/b/atom-stream.xml?since={now - 1}")
    text = await late.upto(b"y\n")
    assert b'<sorryTooSlow youMissed="1" />\n' + b"y" * 900 in text and b"x\n" not in text
    assert pbal.counts["atom_items_missed"] == 1


@lab
async def test_what_is_asked_for_wrongly_is_told(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(more=""))
    for since in ("yesterday", "-1", "1.5", "9" * 12):
        answer = await pbal.ask("updates", get(f"/atom-stream.xml?since={since}"))
        assert answer.status == 400 and b"whole number of seconds" in answer.body
    reader, writer = await pbal.connect("updates")
    writer.write(get("/atom-stream.xml", method="HEAD") + get("/atom-stream.xml", "Content-Length: 0", method="POST"))
    assert (await read_response(reader, head_only=True)).status == 200
    refused = await read_response(reader)
    assert (refused.status, refused.fields["allow"]) == (405, "GET, HEAD")
    for body, said in [
        (b"<entry>", b"mismatched tag"), (b"</i><i>", b"junk after document element"), (b"&lt;&bad;", b"undefined entity"),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><x/>", b"not well-formed"), (b"\xff", b"not well-formed"), (b"a\n</atomStream>", b"line 2"),
    ]:  # fmt: skip
        answer = await put(pbal, "/a", body)
        assert answer.status == 400 and said in answer.body, answer.body
    assert (await put(pbal, "/a" * 101, b"1")).status == 400
    assert (await put(pbal, "/a", b"x" * 300_000)).status == 413
    assert pbal.counts["atom_items_refused"] == 7 and pbal.counts["atom_items"] == 0
    assert "expected" in await pbal.say("SET updates.atom_stream_buffer = much")
    assert "expected 1k or more" in await pbal.say("SET updates.atom_stream_buffer = 1")
    host, port = pbal.server.address("updates")
    assert "a stream of what is published below /a" in await pbal.say(f"explain GET http://{host}:{port}/a/atom-stream.xml")
    assert await pbal.say("SET updates.plugins = none") == "OK"
    answer = await put(pbal, "/a", b"1")
    assert answer.status == 503 and b"atomstream" in answer.body


@lab
async def test_who_is_too_slow_is_left_out_and_told(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(more="SET atom_stream_buffer = 64k"))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, pbal.server.address("updates"))
    slow = Stream(*await asyncio.open_connection(sock=sock, limit=4096))
    slow.writer.write(get("/atom-stream.xml"))
    slow.head = await slow.reader.readuntil(b"\r\n\r\n")
    quick = await Stream.of(pbal, "/a/atom-stream.xml")
    sent = 0
    while pbal.counts["atom_items_missed"] < 3:
        sent += 1
        assert (await put(pbal, "/a", b"%d " % sent + b"x" * 200_000)).status == 200
        await quick.upto(b"%d x" % sent)
    await slow.upto(b"sorryTooSlow")
    while b"/>" not in slow.text.partition(b"sorryTooSlow")[2]:
        await slow.more()
    missed = re.search(rb'\n<sorryTooSlow youMissed="(\d+)" />\n', slow.text)
    assert missed is not None and int(missed[1]) == pbal.counts["atom_items_missed"]
    got = [int(number) for number in re.findall(rb"(\d+) x", slow.text)]
    assert got == list(range(1, sent - int(missed[1]) + 1))
    assert [int(number) for number in re.findall(rb"(\d+) x", quick.text)] == list(range(1, sent + 1))
    slow.writer.close()


@lab
async def test_who_publishes_faster_than_items_go_round_has_to_wait(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(more="SET atom_stream_buffer = 1k\nSET atom_stream_memory = 2k"))
    stream = await Stream.of(pbal, "/atom-stream.xml")
    plugin = pbal.plugin("updates", "atomstream")
    for _ in range(3):
        plugin.publish(b"/a", b"x" * 600)
    answer = await put(pbal, "/a", b"1")
    assert answer.status in (200, 503)  # the round may be over by now
    for _ in range(3):
        plugin.publish(b"/a", b"x" * 600)
    assert plugin.busy()
    await until(lambda: not plugin.busy(), "it to go round")
    await put(pbal, "/a", b"end")
    assert (await stream.upto(b"end\n")).count(b"x" * 600) == 6
    assert pbal.counts["atom_items_forgotten"] > 0 and pbal.counts["atom_items_missed"] == 0


@pytest.mark.parametrize("names", ["AtomStream", "AtomInject", "AtomInject AtomStream"])
def test_a_reload_in_the_middle_loses_and_doubles_nothing(names: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(CONF.format(more=""))
        streams = [await Stream.of(pbal, f"/{place % 2}/atom-stream.xml") for place in range(8)]
        for turn in range(5):
            module = sys.modules[type(pbal.plugin("updates", "atomstream").fanout).__module__]
            module.A_TURN = 1  # type: ignore[attr-defined]
            for number in range(4):
                assert (await put(pbal, f"/{number % 2}", b"<n%d.%d/>" % (turn, number))).status == 200
            assert await pbal.say(f"RELOAD {names}") == "OK"
        assert (await put(pbal, "/0", b"<end/>")).status == (await put(pbal, "/1", b"<end/>")).status == 200
        for place, stream in enumerate(streams):
            said = b"".join(b"<n%d.%d/>\n" % (turn, number) for turn in range(5) for number in (place % 2, place % 2 + 2))
            assert await stream.upto(b"<end/>\n") == prolog() + said + b"<end/>\n"
        transport_of(streams[0].writer).abort()
        await pbal.until("atom_streams", 7)
        assert await pbal.say("SET updates.plugins = none") == "OK"
        assert (await streams[1].upto(b"</atomStream>")).endswith(b"<end/>\n</atomStream>\n")
        await pbal.until("atom_streams", 0)

    run()


@lab
async def test_a_reload_that_fails_ends_no_stream(lab: Lab) -> None:
    (lab.folder / "bad.py").write_text(
        "from pathlib import Path\nfrom pbal.api import Plugin\n\n\nclass Bad(Plugin):\n    def open(self) -> None:\n"
        "        if Path(__file__).with_name('fail').exists():\n            raise ValueError('not now')\n"
    )
    conf = CONF.format(more="SET plugins = AtomStream bad")
    pbal = await lab.pbal(f"    SERVER plugin_path = {lab.folder}\n    LOAD bad{conf}")
    stream = await Stream.of(pbal, "/atom-stream.xml")
    (lab.folder / "fail").touch()
    assert "not now" in await pbal.say("RELOAD AtomStream bad")
    assert (await put(pbal, "/", b"<item/>")).status == 200
    assert await stream.upto(b"<item/>\n") == prolog() + b"<item/>\n"
