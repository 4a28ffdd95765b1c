"""FlvStreaming: what the node is asked for, and what is made of what it answers."""

import pytest
from lab import Lab, lab, read_response
from scripted import Client, Scripted, get, proxy

FLV = b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x09"
PART = (
    b"HTTP/1.1 206 Partial Content\r\nAccept-Ranges: bytes\r\nContent-Range: bytes 5-7/8\r\nContent-Type: application/octet-stream\r\n"
    b'ETag: "a"\r\nContent-Length: 3\r\n\r\nxyz'
)
CHUNKS = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-7/8\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n"
OTHERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-2/8\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-7/8\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
    b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */8\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
]


@lab
async def test_a_range_becomes_a_video(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal("LOAD FlvStreaming\n" + proxy(origin.address, more="SET plugins = FlvStreaming"))
    client = await Client.of(pbal, request=get("/a.flv?x=1&start=05", "Range: bytes=0-1", "If-Range: x", "Accept-Encoding: gzip"))
    node = await origin.connection()
    head = (await node.request()).lower()
    assert b"range: bytes=5-\r\n" in head and head.count(b"range:") == 1 and b"accept-encoding" not in head
    node.say(PART)
    answer = await read_response(client.reader)
    assert (answer.status, answer.body) == (200, FLV + b"xyz")
    assert answer.head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.fields["content-type"] == "video/x-flv" and answer.fields["etag"] == '"a"'
    assert "content-range" not in answer.fields and "accept-ranges" not in answer.fields
    client.writer.write(get("/a.flv?start=5"))
    await node.request()
    node.say(CHUNKS)
    assert (await read_response(client.reader)).body == FLV + b"xyz"
    client.writer.write(get("/a.flv?start=5", method="HEAD"))
    await node.request()
    assert await pbal.say("RELOAD flvstreaming") == "OK"
    node.say(PART[:-3])
    answer = await read_response(client.reader, head_only=True)
    assert (answer.status, answer.fields["content-length"]) == (200, "16")
    for target, method in [("/a.flv?start=0", "GET"), ("/a.flv", "GET"), ("/a.mp4?start=5", "GET"), ("/a.flv?restart=5", "GET"),
                           ("/a.flv?start=5x", "GET"), ("/a.flv?start=5", "DELETE")]:  # fmt: skip
        client.writer.write(get(target, "Range: bytes=5-", method=method))
        assert b"range: bytes=5-\r\n" in (await node.request()).lower()
        node.say(PART)
        answer = await read_response(client.reader)
        assert (answer.status, answer.body) == (206, b"xyz"), target


@pytest.mark.parametrize("said", OTHERS)
def test_what_is_no_such_range_goes_to_the_client_as_it_is(said: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal("LOAD flvstreaming\n" + proxy(origin.address, more="SET plugins = flvstreaming"))
        client = await Client.of(pbal, request=get("/a.flv?start=5"))
        node = await origin.connection()
        await node.request()
        node.say(said)
        answer = await read_response(client.reader)
        assert (answer.status, answer.body) == (int(said[9:12]), said.partition(b"\r\n\r\n")[2])

    run()


@lab
async def test_a_file_that_a_node_orders_is_sent_whole(lab: Lab) -> None:
    (lab.folder / "a.flv").write_bytes(b"FLV of 8")
    origin = await Scripted.start(lab)
    more = f"SET plugins = flvstreaming;SET enable_reproxy = on;SET reproxy_root = {lab.folder}"
    pbal = await lab.pbal("LOAD flvstreaming\n" + proxy(origin.address, more=more))
    client = await Client.of(pbal, request=get("/a.flv?start=5"))
    node = await origin.connection()
    await node.request()
    node.say(f"HTTP/1.1 200 OK\r\nX-Reproxy-File: {lab.folder}/a.flv\r\nContent-Length: 0\r\n\r\n".encode())
    answer = await read_response(client.reader)
    assert (answer.status, answer.body) == (200, b"FLV of 8")
