"""Trailer sections and 1xx: what passes through, in both directions, and what does not."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from lab import DEADLINE, Lab, lab
from scripted import Client, Scripted, Taken, get, proxy

from pbal.http1.events import END, RequestHead, ResponseHead
from pbal.http1.headers import NOT_IN_TRAILERS
from pbal.http1.reader import Limits, RequestReader, ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n2\r\nok\r\n0\r\n"


async def exchange(lab: Lab, request: bytes, response: bytes) -> tuple[bytes, bytes]:
    """What the node got and what the client got, with a connection that closes."""
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more="SET persist_client = off"))
    client = await Client.of(pbal, request=request)
    taken = await node.connection()
    got = await taken.request()
    if b"chunked" in got:
        async with asyncio.timeout(DEADLINE):
            got += await taken.reader.readuntil(b"\r\n0\r\n")
            got += await taken.reader.readuntil(b"\r\n\r\n") if b"X-End" in request else await taken.reader.readuntil(b"\r\n")
    taken.say(response)
    return got, await client.rest()


@lab
async def test_the_trailer_section_of_a_response_passes(lab: Lab) -> None:
    _, got = await exchange(lab, get(), CHUNKED + b"X-Sum: 1\r\nX-Sum: 2\r\n\r\n")

    head, _, body = got.partition(b"\r\n\r\n")
    assert b"\r\nTrailer: X-Sum\r\n" in head + b"\r\n"
    assert body == b"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"


@lab
async def test_what_frames_routes_or_names_somebody_is_no_trailer(lab: Lab) -> None:
    forbidden = b"Content-Length: 9\r\nSet-Cookie: a=b\r\nTransfer_Encoding: chunked\r\nX-Forwarded-For: 1.1.1.1\r\n"
    _, got = await exchange(lab, get(), CHUNKED + forbidden + b"X-Sum: 1\r\n\r\n")

    assert got.endswith(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")


@lab
async def test_a_client_of_http_1_0_gets_no_trailers(lab: Lab) -> None:
    _, got = await exchange(lab, get(version="1.0"), CHUNKED + b"X-Sum: 1\r\n\r\n")

    assert got.endswith(b"\r\n\r\nok") and b"X-Sum: 1" not in got and b"chunked" not in got


@lab
async def test_the_trailer_section_of_a_request_passes_and_te_says_that_a_client_wants_some(lab: Lab) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-End, Host\r\n\r\n"
        b"2\r\nab\r\n0\r\nX-End: yes\r\nHost: evil\r\n\r\n"
    )
    got, _ = await exchange(lab, request, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    head, _, body = got.partition(b"\r\n\r\n")
    assert b"\r\nTE: trailers" in head and b"\r\nTrailer: X-End" in head and head.count(b"Host:") == 1
    assert body == b"2\r\nab\r\n0\r\nX-End: yes\r\n\r\n"


@lab
async def test_what_rules_take_from_a_head_or_set_in_it_does_not_come_in_a_trailer(lab: Lab) -> None:
    node = await Scripted.start(lab)
    rules = [
        "HEADER web REQUEST REMOVE X-User", "HEADER web REQUEST SET X-Role : guest", "HEADER web REQUEST ADD X-More : 1 WHEN path ^/",
        "HEADER web RESPONSE REMOVE X-Debug", "HEADER web RESPONSE SET X-Mine : 1", "SET web.header_underscores = drop",
    ]  # fmt: skip
    pbal = await lab.pbal(proxy(node.address, more=";".join([*rules, "SET buffer_backend_connect = 0"])))
    for held in (False, True):
        if held:
            assert await pbal.say("SET web.buffer_backend_connect = 1000") == "OK"
        fields = (
            b"X-User: root\r\nx_user: root\r\nX-Role: root\r\nX-More: 2\r\nA_B: 1\r\nX-Proxy-Capabilities: reproxy-file\r\nX-End: 1\r\n"
        )
        client = await Client.of(
            pbal, request=b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + fields + b"\r\n"
        )
        taken = await node.connection()
        assert b"\r\nX-Role: guest\r\n" in await taken.request()
        async with asyncio.timeout(DEADLINE):
            assert await taken.reader.readuntil(b"\r\n\r\n") == b"1\r\na\r\n0\r\nX-End: 1\r\n\r\n"
        taken.say(CHUNKED + b"X-Debug: secret\r\nx_debug: secret\r\nX-Mine: 2\r\nX-Sum: 1\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            assert b"\r\nX-Mine: 1\r\n" in await client.reader.readuntil(b"\r\n\r\n")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"


@lab
async def test_what_rules_take_from_responses_is_not_in_1xx_and_101_is_one_of_them(lab: Lab) -> None:
    node = await Scripted.start(lab)
    rules = ["HEADER web RESPONSE REMOVE X-Debug", "HEADER web RESPONSE SET X-Mine : $$path"]
    pbal = await lab.pbal(proxy(node.address, more=";".join(rules)))
    client = await Client.of(pbal, request=get("/a", "Connection: Upgrade", "Upgrade: x"))
    taken = await node.connection()
    await taken.request()
    said = b"X-Debug: secret\r\nX-Mine: 2\r\n"
    taken.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n" + said + b"\r\n")
    taken.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n" + said + b"\r\n")
    async with asyncio.timeout(DEADLINE):
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        upgraded = await client.reader.readuntil(b"\r\n\r\n")
    assert b"X-Mine: /a\r\n" in upgraded and b"secret" not in upgraded and upgraded.count(b"X-Mine") == 1


@lab
async def test_what_a_plugin_takes_from_a_head_or_changes_in_it_does_not_come_back_in_a_trailer(lab: Lab) -> None:
    code = """
from pbal.api import Exchange, Plugin, ResponseHead, hook

class Censor(Plugin):
    @hook.modify_response_headers
    def cut(self, exchange: Exchange, response: ResponseHead) -> None:
        kept = [field for field in response.headers if field[0].lower() not in (b"x-debug", b"x-user")]
        response.headers = [*kept, (b"X-User", b"guest"), (b"X-Mine", b"1")]
"""
    (lab.folder / "censor.py").write_text(code, encoding="utf-8")
    node = await Scripted.start(lab)
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\nLOAD censor\n" + proxy(node.address, more="SET plugins = censor"))
    client = await Client.of(pbal, request=get("/", "Connection: close"))
    taken = await node.connection()
    await taken.request()
    taken.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Debug: d\r\nX-User: root\r\nX-Kept: 1\r\n")
    taken.say(b"Trailer: X-Debug, X_User, X-Mine, X-Sum, X-Kept\r\n\r\n")
    taken.say(b"2\r\nok\r\n0\r\nX-Debug: d\r\nX_User: root\r\nX-Mine: 2\r\nX-Sum: 3\r\nX-Kept: 2\r\n\r\n")
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"\r\nX-User: guest" in head and b"X-Debug" not in head
    assert b"\r\nTrailer: X-Sum, X-Kept" in head
    assert body == b"2\r\nok\r\n0\r\nX-Sum: 3\r\nX-Kept: 2\r\n\r\n"


@lab
async def test_a_trailer_section_of_one_request_is_not_the_next_ones(lab: Lab) -> None:
    async def behaviour(taken: Taken) -> None:
        await taken.request()
        taken.say(CHUNKED + b"X-Sum: 1\r\n\r\n")
        await taken.request()
        taken.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    node = await Scripted.start(lab, behaviour)
    pbal = await lab.pbal(proxy(node.address))
    client = await Client.of(pbal, request=get() + get("/", "Connection: close"))

    assert (await client.rest()).count(b"X-Sum: 1") == 1
    assert len(node.connections) == 1


@lab
async def test_early_hints_pass_and_not_to_http_1_0(lab: Lab) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    response = hints + b"HTTP/1.1 102 Processing\r\n\r\n" + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    _, got = await exchange(lab, get(), response)
    _, old = await exchange(lab, get(version="1.0"), response)

    assert got.startswith(hints + b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert old.startswith(b"HTTP/1.1 200 OK\r\n") and b"Link" not in old


@lab
async def test_a_trailer_section_without_end_is_refused(lab: Lab) -> None:
    _, got = await exchange(lab, get(), CHUNKED + b"X-Sum: 1\r\n" * 65 + b"\r\n")

    assert not got.endswith(b"0\r\n\r\n")  # cut off: the response looks truncated


_NAMES = st.one_of(st.sampled_from(sorted(NOT_IN_TRAILERS)), st.from_regex(rb"[A-Za-z][A-Za-z_-]{0,12}", fullmatch=True))


@given(fields=st.lists(st.tuples(_NAMES, st.from_regex(rb"[a-z0-9]{0,5}", fullmatch=True)), max_size=20), at=st.integers(0, 400))
def test_a_trailer_never_becomes_a_header(fields: list[tuple[bytes, bytes]], at: int) -> None:
    section = b"".join(b"%b: %b\r\n" % field for field in fields)
    body = b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + section + b"\r\n"
    for reader, start in (
        (RequestReader(Limits()), b"POST / HTTP/1.1\r\nHost: h\r\n"),
        (ResponseReader(Limits()), b"HTTP/1.1 200 OK\r\n"),
    ):
        octets = start + body
        events: list[object] = []
        for piece in (octets[:at], octets[at:]):
            if piece:
                reader.feed(piece)
                while (event := reader.next()) is not None:
                    events.append(event)
        head = events[0]
        assert isinstance(head, RequestHead | ResponseHead)
        assert set(head.fields) <= {b"host", b"transfer-encoding"}
        assert b"".join(event for event in events if isinstance(event, bytes)) == b"a"
        assert events[-1] is END and reader.at_start
        kept = [line.partition(b":")[0].lower().replace(b"_", b"-") for line in reader.trailer.splitlines()]
        assert NOT_IN_TRAILERS.isdisjoint(kept)
        assert kept == [name for name in kept if name in {each[0].lower().replace(b"_", b"-") for each in fields}]
