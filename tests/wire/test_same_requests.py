"""What a node gets is what the client sent, however the octets are twisted: no request at a node that the front did not see.

Some hundred sequences of pipelined requests go through whole services: good ones into which one to three octets or lines were put, or from
which something was taken, at places where readers disagree. Bodies look like requests, so whoever is mistaken about the end of one sees a
request that nobody sent. Each sequence is read by three:

    the client's side   by h11, another's reader: what was sent, until it refuses to read on
    the node's side     by the reader below, which takes nothing but the canonical form: what came there
    the answers         each says which request the node answered with it

pbal may refuse more than h11 does; it then closes. So what came at the node is a beginning of what was sent, octet for octet of the bodies,
and the answers are to these requests, in their order. Connections to the node are used by one client after the other: what one left
over would be the beginning of the next one's request.
"""

import asyncio
import random
import re
from functools import partial
from itertools import pairwise
from typing import cast

import h11
import pytest
from lab import DEADLINE, Lab, Pbal, lab, until

Request = tuple[bytes, bytes, bytes | None]
"""Method, target, body; None instead of a body that is not complete."""

NASTY = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
BODIES = (b"", b"x", b"0\r\n\r\n", NASTY, b"5\r\n" + NASTY, b"\r\n" + NASTY, b"0\r\n\r\n" + NASTY)
LINES = (
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 36", b"Content-Length: +5", b"Content-Length: 5, 5",
    b"Content-Length: 5,6", b"Content-Length : 5", b"Content-Length:\t5 ", b"Content-Length: 0x5", b"Content-Length:",
    b"Content-Length: 5\r\n ", b" Content-Length: 5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\n ", b"Transfer-Encoding:\r\n chunked", b"transfer_encoding: chunked", b"Transfer-Encoding: \"chunked\"",
    b"Connection: close", b"Connection: keep-alive", b"Connection: Content-Length", b"Connection: Transfer-Encoding, Host, close",
    b"Connection: Upgrade\r\nUpgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"Expect: 100-continue, x", b"TE: trailers",
    b"Trailer: Content-Length", b"Host: other", b"Host:", b"X: a\r\n b", b"X: a\rContent-Length: 5", b"X: a\nContent-Length: 5", b"X: \x00",
    b"X: \x80\xff", b"Accept-Encoding: gzip", b": x", b"X", b"",
)  # fmt: skip
OCTETS = (
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b"\x0b", b"\x80", b"\xff", b"0", b"f", b";", b":", b",", b'"', b"\r\n ", b"\r\n\r\n", NASTY,
)  # fmt: skip
STARTS = (
    b"GET %b HTTP/1.1", b"GET %b HTTP/1.0", b"HEAD %b HTTP/1.1", b"DELETE %b HTTP/1.1", b"POST %b HTTP/1.1", b"POST %b HTTP/1.1",
    b"PUT %b HTTP/1.0", b"POST http://h%b HTTP/1.1", b"GET http://other:81%b HTTP/1.1", b"POST %b HTTP/1.1",
)  # fmt: skip


def chunked(chance: random.Random, body: bytes) -> bytes:
    """A body in chunks, with what may be in between."""
    middle = chance.randrange(len(body) + 1)
    parts = [part for part in (body[:middle], body[middle:]) if part]
    extension = chance.choice((b"", b"", b";a=b", b' ; a="b;c"', b";"))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return chunks + chance.choice((b"0", b"000")) + b"\r\n" + chance.choice((b"", b"", b"X-T: 1\r\n", b"Content-Length: 9\r\n")) + b"\r\n"


def request(chance: random.Random, number: int) -> bytes:
    """A good request, perhaps with a line too many, or one that is not as it should be."""
    start = chance.choice(STARTS) % (b"/%d" % number)
    lines = [start, b"Host: h"]
    body = b""
    if start.startswith((b"P", b"D")) or chance.random() < 0.2:
        body = chance.choice(BODIES)
        if chance.random() < 0.5:
            lines.append(b"Transfer-Encoding: chunked")
            body = chunked(chance, body)
        else:
            lines.append(b"Content-Length: %d" % len(body))
    if chance.random() < 0.4:
        lines.insert(chance.randrange(1, len(lines) + 1), chance.choice(LINES))
    return b"\r\n".join([*lines, b"", body])


def sequence(chance: random.Random) -> bytes:
    """What a client sends."""
    octets = b"".join(request(chance, number) for number in range(chance.randint(1, 4)))
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        place = chance.choice([match.start() for match in re.finditer(rb"[\r\n: ]", octets)] + [chance.randrange(len(octets))])
        taken = chance.choice((0, 0, 1, 2))
        octets = octets[:place] + (b"" if taken else chance.choice(OCTETS)) + octets[place + taken :]
    return octets


def sent(octets: bytes) -> list[Request]:
    """What h11 reads. Empty lines before a request are nothing (RFC 9112 section 2.2), which h11 does not know."""
    found = list[Request]()
    try:
        while octets := re.sub(rb"^(?:\r\n)+", b"", octets):
            front = h11.Connection(h11.SERVER)
            front.receive_data(octets)
            front.receive_data(b"")
            event = front.next_event()
            assert isinstance(event, h11.Request)
            method, target, body = bytes(event.method), re.sub(rb"^http://[^/]*", b"", bytes(event.target)) or b"/", b""
            kept = event.http_version == b"1.0" and (b"connection", b"keep-alive") in event.headers  # as RFC 9112 section 9.3 has it
            found.append((method, target, None))
            while isinstance(event := front.next_event(), h11.Data):
                body += bytes(event.data)
            assert isinstance(event, h11.EndOfMessage)
            found[-1] = (method, target, body)
            if front.their_state is h11.MUST_CLOSE and not kept:
                break
            octets = front.trailing_data[0]
    except h11.RemoteProtocolError:
        pass
    return found


# --- the node --------------------------------------------------------------------------------------------------------

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = rb"%b:[\t\x20-\x7e\x80-\xff]*\r\n" % _TOKEN
_HEAD = re.compile(rb"(%b) (/[\x21-\x7e]*|\*) HTTP/1\.[01]\r\n((?:%b)+)\r\n" % (_TOKEN, _FIELD))
_SIZE = re.compile(rb"([0-9a-f]+)\r\n")
_TRAILERS = re.compile(rb"0\r\n(?:%b)*\r\n" % _FIELD)


class Node(asyncio.Protocol):
    """Reads the canonical form and nothing else, and answers each request with its method and target."""

    def __init__(self, seen: list[Request], faults: list[bytes], open_now: set["Node"]) -> None:
        self._seen, self._faults, self._open = seen, faults, open_now
        self._octets = b""
        self._begun: bytes | None = None
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        self._octets += data
        while self._octets and self._next():
            pass

    def _next(self) -> bool:
        match = _HEAD.match(self._octets)
        if match is None:
            if b"\r\n\r\n" in self._octets:
                self._faults.append(self._octets)
                self._transport.abort()
            return False
        method, target, lines = match.groups()
        if self._begun != match[0]:
            self._begun = match[0]
            self._seen.append((method, target, None))
            if b"100-continue" in lines:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lengths = re.findall(rb"^content-length:[ \t]*(.*?)[ \t]*\r$", lines, re.MULTILINE | re.IGNORECASE)
        codings = re.findall(rb"^transfer-encoding:[ \t]*(.*?)[ \t]*\r$", lines, re.MULTILINE | re.IGNORECASE)
        if (len(lengths), codings) not in ((0, []), (1, []), (0, [b"chunked"])) or any(not length.isdigit() for length in lengths):
            self._faults.append(match[0])
            self._transport.abort()
            return False
        body = self._chunks(match.end()) if codings else self._plain(match.end(), int(lengths[0]) if lengths else 0)
        if body is None:
            return False
        self._begun = None
        self._seen[-1] = (method, target, body)
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Saw: %b %b\r\n\r\n" % (method, target))
        return True

    def _plain(self, place: int, length: int) -> bytes | None:
        body = self._octets[place : place + length]
        if len(body) < length:
            return None
        self._octets = self._octets[place + length :]
        return body

    def _chunks(self, place: int) -> bytes | None:
        body = b""
        while True:
            last = _TRAILERS.match(self._octets, place)
            if last is not None:
                self._octets = self._octets[last.end() :]
                return body
            size = _SIZE.match(self._octets, place)
            if size is None or len(self._octets) < (end := size.end() + int(size[1], 16)) + 2:
                return None
            body += self._octets[size.end() : end]
            if self._octets[end : end + 2] != b"\r\n":
                self._faults.append(self._octets)
                self._transport.abort()
                return None
            place = end + 2


SERVICES = {
    "plain": "",
    "older": "SET accept_chunked_http10 = on",
    "held": "SET buffer_uploads = on;SET buffer_backend_connect = 64k;SET buffer_upload_threshold_size = 1;SET compress = gzip",
    "verified": "SET verify_backend = on;SET max_backend_uses = 3",
}


def configuration(node: str) -> str:
    """A pool of the node, and each of SERVICES before it."""
    lines = ["CREATE POOL app", f"POOL app ADD {node}"]
    for name, more in SERVICES.items():
        lines += [f"CREATE SERVICE {name}", "SET role = reverse_proxy", "SET listen = 127.0.0.1:0", "SET pool = app", *more.split(";")]
        lines += [f"ENABLE {name}"]
    return "\n".join(lines)


async def ask(pbal: Pbal, service: str, octets: bytes, cuts: list[int]) -> bytes:
    """Send octets in pieces, and then the end; all that comes back."""
    reader, writer = await pbal.connect(service)
    for begin, end in pairwise([0, *cuts, len(octets)]):
        writer.write(octets[begin:end])
        await asyncio.sleep(0)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        answers = await reader.read()
    writer.close()
    return answers


@pytest.mark.parametrize("service", SERVICES)
@lab
async def test_a_node_sees_the_requests_that_were_sent_and_no_others(lab: Lab, service: str) -> None:
    seen, faults, open_now = list[Request](), list[bytes](), set[Node]()
    server = await asyncio.get_running_loop().create_server(lambda: Node(seen, faults, open_now), "127.0.0.1", 0)
    lab.keep(server)
    port = server.sockets[0].getsockname()[1]
    pbal = await lab.pbal(configuration(f"127.0.0.1:{port}"))
    chance = random.Random(f"requests of {service}")
    passed = refused = 0
    for number in range(200):
        octets = sequence(chance)
        cuts = sorted(chance.randrange(len(octets)) for _ in range(chance.choice((0, 0, 1, 3))))
        seen.clear()
        answers = await ask(pbal, service, octets, cuts)
        await until(partial(_settled, pbal, open_now), "the node to have heard everything")
        said = f"{service} {number}: {octets!r} in pieces at {cuts}: sent {sent(octets)}, seen {seen}, answered {answers!r}"
        assert not faults, f"{faults}, of {said}"
        got = [request for request in seen if request[1] != b"*"]  # that is pbal's own
        meant = sent(octets)[: len(got)]
        if got and got[-1][2] is None:  # refused, or at its end, in the middle of a body
            assert [request[:2] for request in got[-1:]] == [request[:2] for request in meant[-1:]], said
            del got[-1], meant[-1]
        assert got == meant, said
        complete = [b"%b %b" % request[:2] for request in got]
        assert re.findall(rb"\r\nX-Saw: (.*)\r\n", answers) == complete, said
        passed += len(complete)
        refused += len(re.findall(rb"HTTP/1\.1 4", answers))
    assert passed > 100 and refused > 50
    assert pbal.counts["bad_requests"] > 50


def _settled(pbal: Pbal, open_now: set[Node]) -> bool:
    """Whether no client is there, and the node knows of every connection that is over."""
    backends = pbal.world.backends
    return not pbal.world.clients and len(open_now) == len(backends) and all(backend.state == "bored" for backend in backends)
