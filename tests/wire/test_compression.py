"""Compression on the way out: what is compressed and what not, what the head says then, and that nobody waits for it."""

import asyncio
import base64
import gzip
import os
import re
import socket
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import DEADLINE, Lab, Response, lab, read_response, transport_of
from polls import conf, park, publish
from polls import get as poll
from scripted import Client, Scripted, Taken, answer, get, proxy

from pbal.http1 import coding
from pbal.http1.coding import Coding

TEXT = b"All work and no play makes Jack a dull boy. " * 100
PLAIN = "Content-Type: text/plain"
HERE = [name for name in coding.NUMBERS if not coding.missing(name)]


def decoded(name: str, data: bytes) -> bytes:
    if name == "gzip":
        return gzip.decompress(data)
    if name == "br":
        made: Any = coding._module("br").decompress(data)
    else:
        module = coding._module("zstd")
        package = hasattr(module, "COMPRESSOBJ_FLUSH_BLOCK")
        made = module.ZstdDecompressor().decompressobj().decompress(data) if package else module.decompress(data)
    assert isinstance(made, bytes)
    return made


async def through(lab: Lab, request: bytes, response: bytes, more: str = "SET compress = gzip") -> Response:
    """What a client gets of a node's response."""

    async def behaviour(taken: Taken) -> None:
        await taken.request()
        taken.say(response)

    node = await Scripted.start(lab, behaviour)
    pbal = await lab.pbal(proxy(node.address, more=more))
    return await pbal.ask("web", request)


@pytest.mark.parametrize("name", HERE)
@lab
async def test_a_response_is_compressed_with_what_the_client_accepts(lab: Lab, name: str) -> None:
    got = await through(
        lab,
        get("/", f"Accept-Encoding: {name}"),
        answer(TEXT, PLAIN, 'ETag: "a"', "Accept-Ranges: bytes", "Content-Encoding: identity"),
        f"SET compress = {' '.join(HERE)}",
    )

    assert got.head.lower().count(b"content-encoding:") == 1
    assert got.fields["content-encoding"] == name and got.fields["vary"] == "Accept-Encoding"
    assert got.fields["etag"] == 'W/"a"'
    assert "content-length" not in got.fields and "accept-ranges" not in got.fields
    assert decoded(name, got.body) == TEXT and len(got.body) < len(TEXT) // 4


@pytest.mark.parametrize(
    ("fields", "varies"),
    [
        ((PLAIN, "Content-Encoding: br"), False),
        ((PLAIN, "Cache-Control: public, no-transform"), False),
        (("Content-Type: image/png",), False),
        (("Content-Type: text/event-stream",), False),
        ((PLAIN, "Content-Digest: sha-256=:AAAA:"), False),
        ((PLAIN, "Vary: Origin, accept-encoding"), True),
    ],
)
@lab
async def test_what_is_not_to_be_compressed_is_left_alone(lab: Lab, fields: tuple[str, ...], varies: bool) -> None:
    accept = "identity" if varies else "gzip"
    got = await through(lab, get("/", f"Accept-Encoding: {accept}"), answer(TEXT, *fields))

    assert got.body == TEXT and got.fields.get("content-encoding", "") != "gzip"
    assert got.fields.get("vary") == ("Origin, accept-encoding" if varies else None)


@lab
async def test_a_part_is_never_compressed(lab: Lab) -> None:
    response = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-999/5000\r\nContent-Length: 1000\r\n\r\n"
    )
    got = await through(lab, get("/", "Accept-Encoding: gzip", "Range: bytes=0-999"), response + TEXT[:1000])

    assert got.status == 206 and got.body == TEXT[:1000] and got.fields["vary"] == "Accept-Encoding", "as of the whole"


@lab
async def test_a_short_response_stays_plain_and_one_for_http_1_0_says_vary(lab: Lab) -> None:
    short = await through(lab, get("/", "Accept-Encoding: gzip"), answer(b"short", PLAIN))
    old = await through(lab, get("/", "Accept-Encoding: gzip", version="1.0"), answer(TEXT, PLAIN))

    assert short.body == b"short" and "vary" not in short.fields
    assert old.body == TEXT and old.fields["vary"] == "Accept-Encoding" and "content-length" in old.fields


@lab
async def test_head_and_304_say_what_get_says(lab: Lab) -> None:
    head = await through(
        lab,
        get("/", "Accept-Encoding: gzip", method="HEAD"),
        b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: "a"\r\nContent-Length: 5000\r\n\r\n',
    )
    unchanged = await through(lab, get("/", "Accept-Encoding: gzip"), b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')

    assert head.fields["content-encoding"] == "gzip" and "content-length" not in head.fields and head.fields["etag"] == 'W/"a"'
    assert unchanged.fields["vary"] == "Accept-Encoding" and unchanged.fields["etag"] == 'W/"a"'
    assert "content-encoding" not in unchanged.fields


@lab
async def test_each_piece_of_a_stream_can_be_read_at_once(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more="SET compress = gzip;SET compress_types = text/*"))
    client = await Client.of(pbal, request=get("/", "Accept-Encoding: gzip"))
    taken = await node.connection()
    await taken.request()
    taken.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
    inflater = zlib.decompressobj(31)
    async with asyncio.timeout(DEADLINE):
        for number, event in enumerate((b"data: one\n\n", b"data: two\n\n")):
            taken.say(b"%x\r\n%b\r\n" % (len(event), event))
            if not number:
                assert b"Content-Encoding: gzip" in await client.reader.readuntil(b"\r\n\r\n")
            seen = b""
            while seen != event:
                size = int((await client.reader.readuntil(b"\r\n"))[:-2], 16)
                seen += inflater.decompress(await client.reader.readexactly(size))
                await client.reader.readexactly(2)
        taken.say(b"0\r\nX-Sum: 1\r\n\r\n")  # what closes the coding comes before it
        assert (await client.reader.readuntil(b"\r\n\r\n")).endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")


@lab
async def test_files_are_compressed_and_their_validators_hold(lab: Lab) -> None:
    (lab.folder / "page.html").write_bytes(TEXT)
    pbal = await lab.pbal(
        f"""
        CREATE SERVICE site
          SET role = web_server
          SET listen = 127.0.0.1:0
          SET docroot = {lab.folder}
          SET compress = gzip
        ENABLE site
        """
    )
    got = await pbal.ask("site", get("/page.html", "Accept-Encoding: gzip;q=0.5, *;q=0.1"))
    assert gzip.decompress(got.body) == TEXT
    etag = got.fields["etag"]
    assert etag.startswith('W/"')

    again = await pbal.ask("site", get("/page.html", "Accept-Encoding: gzip", f"If-None-Match: {etag}"))
    assert again.status == 304 and again.fields["etag"] == etag

    missing = await pbal.ask("site", get("/nowhere", "Accept-Encoding: gzip"))
    assert missing.status == 404 and "content-encoding" not in missing.fields  # too short

    assert await pbal.say("SET site.compress = off") == "OK"
    plain = await pbal.ask("site", get("/page.html", "Accept-Encoding: gzip"))
    assert plain.body == TEXT and "vary" not in plain.fields and pbal.counts["compressed_responses"] == 1


@lab
async def test_the_answer_of_a_parked_poll_is_compressed(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET compress = gzip", "SET poll_format = json"))
    reader, _ = await park(pbal, "/poll/a", "Accept-Encoding: gzip")
    plain, _ = await park(pbal, "/poll/b")
    await publish(pbal, "a", TEXT)
    await publish(pbal, "b", TEXT)
    got, other = await read_response(reader), await read_response(plain)

    assert got.fields["content-encoding"] == "gzip" and got.fields["vary"] == "Accept-Encoding"
    assert gzip.decompress(got.body).replace(b'"a"', b'"b"') == other.body and TEXT.strip() in other.body
    assert int(got.fields["content-length"]) == len(got.body)
    assert other.fields["vary"] == "Accept-Encoding"
    await publish(pbal, "a", TEXT)
    answered = await pbal.ask("chat", poll("/poll/a", "Accept-Encoding: gzip;q=0"))
    assert "content-encoding" not in answered.fields


@lab
async def test_a_long_body_is_compressed_in_turns_and_its_client_may_be_slow(lab: Lab) -> None:
    long = b"".join(b"%d: some text that can be made shorter\n" % number for number in range(300_000))
    (lab.folder / "long.txt").write_bytes(long)
    node = await Scripted.start(lab, lambda taken: _says(taken, answer(long, PLAIN)))
    pbal = await lab.pbal(
        proxy(node.address, more="SET compress = gzip;SET buffer_size = 4k")
        + "\nCREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET compress = gzip\n"
        + f"SET docroot = {lab.folder}\nENABLE site"
    )
    most = turns = before = 0
    loop = asyncio.get_running_loop()
    ended = False

    def turn() -> None:
        nonlocal most, turns, before
        done = pbal.counts["compression_in_bytes"]
        most, before, turns = max(most, done - before), done, turns + 1
        if not ended:
            loop.call_soon(turn)

    turn()
    for service, path in (("web", "/"), ("site", "/long.txt")):
        got = await pbal.ask(service, get(path, "Accept-Encoding: gzip"))
        assert gzip.decompress(got.body) == long
    ended = True
    assert most <= 3 * 131072
    assert pbal.counts["compression_in_bytes"] == 2 * len(long)


@lab
async def test_who_does_not_read_stops_the_compression_and_answers_stay_in_order(lab: Lab) -> None:
    long = base64.b64encode(os.urandom(6_000_000))
    (lab.folder / "long.txt").write_bytes(long)
    (lab.folder / "rule.py").write_text(PLUGIN)
    pbal = await lab.pbal(
        f"SERVER plugin_path = {lab.folder}\nLOAD rule\nCREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\n"
        f"SET plugins = rule\nSET docroot = {lab.folder}\nSET compress = gzip\nSET compress_level = 1\nSET buffer_size = 4k\nENABLE site"
    )
    asked = [get(path, "Accept-Encoding: gzip", method=method) for path, method in
             (("/long.txt", "GET"), ("/plugin", "HEAD"), ("/plugin", "GET"), ("/long.txt", "HEAD"), ("/nowhere", "GET"))]  # fmt: skip
    client = await Client.of(pbal, "site")
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    transport_of(client.writer).pause_reading()
    client.writer.write(b"".join(asked))
    seen = -1
    while seen != pbal.counts["compression_in_bytes"] or not seen:  # some turns of the loop, and nothing more of it
        seen = pbal.counts["compression_in_bytes"]
        for _ in range(20):
            await pbal.ask("site", get("/nowhere"))
    assert 0 < seen < len(long)

    transport_of(client.writer).resume_reading()
    assert gzip.decompress((await read_response(client.reader)).body) == long
    head = await read_response(client.reader, head_only=True)
    got = await read_response(client.reader)
    assert gzip.decompress(got.body) == b"made by a plugin\n" * 100_000
    assert head.fields["content-encoding"] == "gzip" and "content-length" not in head.fields and "content-length" not in got.fields
    assert (await read_response(client.reader, head_only=True)).fields["content-encoding"] == "gzip"
    assert (await read_response(client.reader)).status == 404


PLUGIN = """
from pbal.api import Exchange, Plugin, Verdict, hook


class Rule(Plugin):
    @hook.start_http_request
    def long(self, exchange: Exchange) -> Verdict:
        if exchange.path != b"/plugin":
            return Verdict.PASS
        exchange.respond(200, [(b"Content-Type", b"text/plain")], b"made by a plugin\\n" * 100_000)
        return Verdict.TAKEN
"""


async def _says(taken: Taken, response: bytes) -> None:
    while True:
        await taken.request()
        taken.say(response)


@lab
async def test_a_response_that_is_cut_off_looks_so(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more="SET compress = gzip"))
    client = await Client.of(pbal, request=get("/", "Accept-Encoding: gzip"))
    taken = await node.connection()
    await taken.request()
    taken.say(answer(TEXT, PLAIN)[:-10])
    taken.writer.close()
    got = await client.rest()

    assert got.startswith(b"HTTP/1.1 200") and not got.endswith(b"0\r\n\r\n")
    assert pbal.counts["truncated_responses"] == 1


@lab
async def test_set_refuses_what_it_does_not_know_and_says_what_to_install(lab: Lab) -> None:
    pbal = await lab.pbal(proxy("127.0.0.1:1"))

    assert "expected off, or some of gzip, zstd and br" in await pbal.say("SET web.compress = deflate")
    assert "expected media types" in await pbal.say("SET web.compress_types = text")
    for name in {"zstd", "br"} - set(HERE):
        assert "pip install" in await pbal.say(f"SET web.compress = {name}")
    assert await pbal.say("SET web.compress = GZIP") == "OK"
    assert "SET compress = gzip" in await pbal.say("dumpconfig")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"", ""),
        (b"gzip", "gzip"),
        (b"gzip, br", "br"),
        (b"br;q=0.5, gzip", "gzip"),
        (b"x-gzip", "gzip"),
        (b"*", "br"),
        (b"*;q=0.1, br;q=0", "gzip"),
        (b"gzip;q=0", ""),
        (b"gzip;q=0.5, identity", ""),
        (b"gzip;q=0.5, identity;q=0.2", "gzip"),
        (b"gzip;q=2", ""),
        (b"deflate", ""),
        (b"GZIP ; q=1.000", "gzip"),
    ],
)
def test_weights(accept: bytes, expected: str) -> None:
    setting = Coding(("br", "gzip"), (), 0, 5)
    flags = setting.accepted(accept)

    assert (coding.NAMES[(flags & coding.CODING) >> coding.SHIFT].decode() if flags else "") == expected


def test_identity_that_is_refused_makes_short_bodies_suit() -> None:
    setting = Coding(("gzip",), (b"text/plain",), 512, 5)
    block = b"Content-Type: text/plain\r\n"

    assert not setting.suits(200, block, 10, setting.accepted(b"gzip"))
    assert setting.suits(200, block, 10, setting.accepted(b"gzip, identity;q=0"))


@given(st.binary(max_size=60))
def test_an_accept_encoding_of_any_octets_can_be_weighed(accept: bytes) -> None:
    assert all(0 <= weight <= 1 for weight in coding.weighed(accept).values())


@given(st.lists(st.binary(max_size=3000), max_size=8), st.sampled_from(HERE))
def test_what_is_flushed_can_be_read_and_the_whole_comes_back(pieces: list[bytes], name: str) -> None:
    coder = Coding((name,), (), 0, 5).coder(coding.NUMBERS[name] << coding.SHIFT)
    out = b"".join(coder.code(piece) + coder.flush() for piece in pieces) + coder.finish()

    assert decoded(name, out) == b"".join(pieces)


def test_very_many_blanks_take_no_time() -> None:
    """Each of these would take minutes if time went by a power of their number."""
    blanks = b" " * 60_000
    setting = Coding(("gzip",), (b"text/plain",), 0, 5)
    for value in (b"a" + blanks + b"b", blanks, b"a," + blanks + b";q=1", b"gzip;" + blanks + b"q" + blanks + b"=" + blanks + b"1"):
        setting.accepted(value)
        coding.weighed(value)
        for name in (b"Vary: ", b"Content-Type: ", b"ETag: "):
            block = name + value + b"x\r\n"
            setting.suits(200, block, 1000, 0)
            assert coding.varied(block).endswith(b"Vary: Accept-Encoding\r\n")
            assert coding.coded(block, coding.GZIP << coding.SHIFT).startswith(name)


def test_a_line_that_only_looks_like_one_is_left_alone() -> None:
    block = b'X-ETag: "a"\r\nX-Note: etag: "b"\r\nETag: "c"\r\nX-Content-Length: 3\r\n'

    assert coding.coded(block, coding.GZIP << coding.SHIFT) == (
        b'X-ETag: "a"\r\nX-Note: etag: "b"\r\nETag: W/"c"\r\nX-Content-Length: 3\r\nContent-Encoding: gzip\r\n'
    )
    assert re.search(rb"Vary", coding.varied(b"X-Vary: accept-encoding\r\n")[4:])
