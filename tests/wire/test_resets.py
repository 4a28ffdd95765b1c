"""Resets after every octet, of the client and of the node: nothing is left of the exchange, and the next client is answered.

One client after another breaks off, each an octet later than the one before; so do nodes. What is on: held bodies, spools, compression, a
limit of requests at once that one place left taken would use up, orders to fetch from elsewhere.
"""

import asyncio
from functools import partial

import pytest
from lab import Lab, Pbal, lab, left_in, until
from scripted import Client, Scripted, Taken, get, proxy

UPLOAD = b"POST /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
KNOWN = b"PUT /up HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\nhelloabc"
TEXT = b"a text that compresses well, " * 40
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(TEXT), TEXT)
SHORT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
EVERYTHING = "SET compress = gzip;SET queue_size = 10"
HELD = "SET buffer_backend_connect = 64k;SET buffer_uploads = on;SET buffer_upload_threshold_size = 1"


async def with_limit(lab: Lab, node: str, more: str) -> Pbal:
    """A service before a node that takes one request at once from each client."""
    pbal = await lab.pbal(proxy(node, more=f"{EVERYTHING};{more}"))
    assert await pbal.say("LIMIT web 1 CONCURRENT BY address") == "OK"
    return pbal


def nothing_left(pbal: Pbal) -> bool:
    """Whether all is as before the first client, but for connections that rest."""
    return all("bored" in what or "backend connections" in what for what in left_in(pbal.world))


@pytest.mark.parametrize("more", ["", HELD])
@pytest.mark.parametrize("request_octets", [UPLOAD, KNOWN])
@lab
async def test_a_client_that_resets_after_any_octet_leaves_nothing(lab: Lab, request_octets: bytes, more: str) -> None:
    async def answers(node: Taken) -> None:
        while await node.request():
            node.say(SHORT)

    origin = await Scripted.start(lab, answers)
    pbal = await with_limit(lab, origin.address, more)
    for octets in range(len(request_octets) + 1):
        client = await Client.of(pbal, request=request_octets[:octets])
        await until(lambda: pbal.world.clients, "it to be accepted")
        for _ in range(5):
            await asyncio.sleep(0)  # a reset takes with it what was not read
        client.reset()
        await until(partial(nothing_left, pbal), f"nothing to be left after {octets} octets: {left_in(pbal.world)}")
    assert (await pbal.ask("web", get())).status == 103, "the place of the limit is free, and a node's connection is not out of step"


@pytest.mark.parametrize("answer", [SHORT, ANSWER])
@pytest.mark.parametrize("how", ["reset", "end"])
@lab
async def test_a_node_that_breaks_off_after_any_octet_is_answered_for(lab: Lab, answer: bytes, how: str) -> None:
    cut = 0

    async def breaks(node: Taken) -> None:
        while await node.request():
            node.say(answer[:cut])
            if cut < len(answer):
                await asyncio.sleep(0)
                Client(node.reader, node.writer).reset() if how == "reset" else node.writer.close()
                return

    origin = await Scripted.start(lab, breaks)
    pbal = await with_limit(lab, origin.address, "SET enable_reproxy = on")
    for cut in [*range(min(len(answer), 100)), len(answer) - 8, len(answer) - 3, len(answer) - 1, len(answer)]:
        client = await Client.of(pbal, request=get("/", "Accept-Encoding: gzip", "Connection: close"))
        whole = cut == len(answer)
        try:
            got = await client.rest()
        except ConnectionError:
            got = b"cut"
        status = got[got.rfind(b"HTTP/1.1 ") :][9:12]
        assert status in ((b"200",) if whole else (b"200", b"502", b"")), got
        assert got.endswith((b"hello", b"0\r\n\r\n")) == whole, "what is not whole does not look so"
        client.writer.close()
        await until(partial(nothing_left, pbal), f"nothing to be left after {cut} octets: {left_in(pbal.world)}")
    assert pbal.counts["backend_errors"] and pbal.counts["truncated_responses"]
    assert (await pbal.ask("web", get("/", "Connection: close"))).status in (103, 200)
