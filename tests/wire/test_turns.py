"""What one peer makes long is done in turns of the loop: another client's requests are answered in between.

A test here says how much of the long thing was done between two answers to somebody else, never how much time passed. That the log
stops nothing is in test_signals.py, many pipelined requests are in test_pipelining.py, crowds in test_crowds.py.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from lab import Lab, Pbal, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, get, proxy

from pbal.http1.octets import STEPS
from pbal.net.connection import ClientConnection

CHUNKS = 150_000
IN_CHUNKS = b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n"
TURNS = 8
"""Turns of the loop between two answers to one client, at most: the tests' own peers live in the same loop and take some."""

FILES = """
    CREATE SERVICE files
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
    ENABLE files
"""


async def served(lab: Lab, origin: Scripted, more: str = "") -> Pbal:
    (lab.folder / "file").write_bytes(b"f" * 100)
    return await lab.pbal(proxy(origin.address, more=more) + "\n" + FILES.format(folder=lab.folder))


async def another(pbal: Pbal) -> Client:
    """A client that is served already."""
    client = await Client.of(pbal, "files", get("/file"))
    assert (await read_response(client.reader)).status == 200
    return client


async def progress(other: Client, done: Callable[[], int], end: int) -> list[int]:
    """How much was done at each answer to another client, from the first octet to the last."""
    seen: list[int] = []
    while not seen or seen[-1] < end:
        other.writer.write(get("/file"))
        assert (await read_response(other.reader)).status == 200
        seen.append(done())
    return seen


def most_between(seen: list[int]) -> int:
    """The most that was done between two answers."""
    return max(after - before for before, after in zip([0, *seen], seen, strict=False))


class Counting:
    """A backend that counts the octets it gets behind a head."""

    def __init__(self) -> None:
        self.received = 0

    async def __call__(self, taken: Taken) -> None:
        await taken.request()
        while data := await taken.reader.read(1 << 20):
            self.received += data.count(b"x")


@lab
async def test_an_upload_in_very_small_chunks_holds_nobody_up(lab: Lab) -> None:
    counting = Counting()
    pbal = await served(lab, await Scripted.start(lab, counting), "SET buffer_backend_connect = 0")
    other = await another(pbal)
    client = await Client.of(pbal, request=get("/", "Transfer-Encoding: chunked", method="POST") + IN_CHUNKS)
    seen = await progress(other, lambda: counting.received, CHUNKS)
    assert most_between(seen) <= TURNS * STEPS
    assert client.reader is not None


@lab
async def test_an_answer_in_very_small_chunks_holds_nobody_up(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await served(lab, origin)
    other = await another(pbal)
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + IN_CHUNKS)
    received = 0

    async def read() -> None:
        nonlocal received
        while received < CHUNKS:
            received += (await client.reader.read(1 << 20)).count(b"x")

    reading = asyncio.ensure_future(read())
    seen = await progress(other, lambda: received, CHUNKS)
    await reading
    assert most_between(seen) <= TURNS * STEPS


COLLECTING = '''"""A plugin that wants uploads whole."""

from pbal.api import Exchange, Plugin, Verdict, hook


class Collecting(Plugin):
    @hook.proxy_read_request
    def seen(self, exchange: Exchange) -> Verdict:
        return Verdict.PASS
'''


@lab
async def test_an_upload_that_is_collected_for_a_plugin_holds_nobody_up(lab: Lab) -> None:
    (lab.folder / "collecting.py").write_text(COLLECTING)
    counting = Counting()
    pbal = await served(lab, await Scripted.start(lab, counting))
    assert await pbal.say(f"SERVER plugin_path = {lab.folder}") == "OK"
    assert await pbal.say("LOAD collecting") == "OK" and await pbal.say("SET web plugins = collecting") == "OK"
    other = await another(pbal)
    client = await Client.of(pbal, request=get("/", "Transfer-Encoding: chunked", method="POST"))
    (connection,) = await until(lambda: [client for client in pbal.world.clients if client.exchange is not None], "the request")
    exchange = connection.exchange
    client.writer.write(IN_CHUNKS)
    seen = await progress(other, lambda: int(exchange.received), CHUNKS)
    assert most_between(seen) <= TURNS * STEPS
    await until(lambda: counting.received == CHUNKS, "the node to have it all")


@lab
async def test_very_many_interim_answers_hold_nobody_up(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await served(lab, origin)
    other = await another(pbal)
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000 + OK)
    received = 0

    async def read() -> None:
        nonlocal received
        while received < 20_001:
            received += (await client.reader.read(1 << 20)).count(b"HTTP/1.1 ")

    reading = asyncio.ensure_future(read())
    seen = await progress(other, lambda: received, 20_001)
    await reading
    assert most_between(seen) <= TURNS * STEPS // 8


# -- many polls ------------------------------------------------------------------------------------------------------

CROWD = 1200
SLICE = 128
"""Polls answered, or clients taken leave of, in a turn of the loop."""

POLLS = """
    LOAD poll
    CREATE SERVICE chat
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET poll_duplicate   = all
    ENABLE chat
"""


@pytest.mark.parametrize("what", ["one publish", "their end", "DISABLE", "poll answer", "poll kick"])
def test_a_crowd_on_one_queue_holds_nobody_up(what: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        (lab.folder / "file").write_bytes(b"f" * 100)
        pbal = await lab.pbal(POLLS + FILES.format(folder=lab.folder))
        crowd = [await Client.of(pbal, "chat", get("/poll/room")) for _ in range(CROWD)]
        await pbal.until("poll_parked", CROWD)
        publisher = await Client.of(pbal, "chat")
        other = await another(pbal)
        saying: asyncio.Future[str] | None = None
        if what == "one publish":
            publisher.writer.write(b"POST /publish/room HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        elif what == "DISABLE":
            saying = asyncio.ensure_future(pbal.say("DISABLE chat"))
        elif what.startswith("poll"):
            saying = asyncio.ensure_future(pbal.say(f"{what} room"))
        else:
            for client in crowd:
                client.writer.close()
        seen = await progress(other, lambda: CROWD - pbal.counts["poll_parked"], CROWD)
        assert most_between(seen) <= TURNS * SLICE
        if saying is not None:
            assert not (await saying).startswith("ERROR")
        if what == "one publish":
            for client in crowd:
                assert (await read_response(client.reader)).body == b"hi\n"

    run()


@lab
async def test_one_that_cannot_be_closed_holds_no_other_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(POLLS)
    crowd = [await Client.of(pbal, "chat", get("/poll/room")) for _ in range(200)]
    await pbal.until("poll_parked", 200)
    close = ClientConnection._close
    broken: list[ClientConnection] = []

    def fails_for_the_first(self: ClientConnection) -> None:
        broken.append(self)
        if len(broken) == 1:
            raise RuntimeError("out of order")
        close(self)

    monkeypatch.setattr(ClientConnection, "_close", fails_for_the_first)
    for client in crowd:
        client.writer.close()
    await pbal.until("poll_parked", 1)
    broken[0].abort()
    await pbal.until("poll_parked", 0)


@lab
async def test_the_removal_of_a_poll_does_not_look_at_the_others(lab: Lab) -> None:
    """Of a crowd on one queue some leave, the first and the last of them; the others get what comes, each once."""
    pbal = await lab.pbal(POLLS)
    crowd = [await Client.of(pbal, "chat", get("/poll/room")) for _ in range(300)]
    await pbal.until("poll_parked", 300)
    leaving = crowd[:50] + crowd[100:150] + crowd[-50:]
    for client in leaving:
        client.writer.close()
    await pbal.until("poll_gone", 150)
    publish = b"POST /publish/room HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
    assert (await pbal.ask("chat", publish)).status == 202
    for client in crowd:
        if client not in leaving:
            assert (await read_response(client.reader)).body == b"hi\n"
    assert pbal.counts["poll_parked"] == 0 and pbal.counts["poll_answered"] == 150


@lab
async def test_many_publishes_in_one_read_share_a_turn(lab: Lab) -> None:
    """Twelve rooms of three hundred: what comes for all of them at once is no more work for a turn than what comes for one."""
    (lab.folder / "file").write_bytes(b"f" * 100)
    pbal = await lab.pbal(POLLS + FILES.format(folder=lab.folder))
    crowd = [await Client.of(pbal, "chat", get(f"/poll/room{number % 12}")) for number in range(3 * CROWD)]
    await pbal.until("poll_parked", 3 * CROWD)
    publisher = await Client.of(pbal, "chat")
    other = await another(pbal)
    publisher.writer.write(
        b"".join(b"POST /publish/room%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nm%x" % (n, n) for n in range(12))
    )
    seen = await progress(other, lambda: 3 * CROWD - pbal.counts["poll_parked"], 3 * CROWD)
    assert most_between(seen) <= 2 * TURNS * SLICE  # a file is read in a thread, which waits for a core
    for number, client in enumerate(crowd):
        assert (await read_response(client.reader)).body == b"m%x\n" % (number % 12)


@lab
async def test_a_small_room_does_not_wait_for_the_end_of_a_large_one(lab: Lab) -> None:
    pbal = await lab.pbal(POLLS)
    crowd = [await Client.of(pbal, "chat", get("/poll/room")) for _ in range(CROWD)]
    friends = [await Client.of(pbal, "chat", get("/poll/kitchen")) for _ in range(200)]
    await pbal.until("poll_parked", CROWD + 200)
    publisher = await Client.of(pbal, "chat")
    for queue in (b"room", b"kitchen"):
        publisher.writer.write(b"POST /publish/%b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi" % queue)
    for friend in friends:
        assert (await read_response(friend.reader)).body == b"hi\n"
    assert pbal.counts["poll_parked"] > 0
    for client in crowd:
        assert (await read_response(client.reader)).body == b"hi\n"


@lab
async def test_two_messages_reach_a_crowd_of_streams_in_their_order(lab: Lab) -> None:
    """The second begins while the first is under way."""
    pbal = await lab.pbal(POLLS)
    crowd = [await Client.of(pbal, "chat", get("/poll/room", "Accept: text/event-stream")) for _ in range(300)]
    await pbal.until("poll_parked", 300)
    publisher = await Client.of(pbal, "chat")
    publisher.writer.write(
        b"".join(b"POST /publish/room HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nm%d" % number for number in range(9))
    )
    for client in crowd:
        text = await client.reader.readuntil(b"data: m8\n\n\r\n")
        assert [text.index(b"data: m%d\n" % number) for number in range(9)] == sorted(text.index(b"data: m%d\n" % n) for n in range(9))


@lab
async def test_one_that_cannot_be_answered_holds_no_other_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(POLLS)
    crowd = [await Client.of(pbal, "chat", get("/poll/room")) for _ in range(300)]
    await pbal.until("poll_parked", 300)
    answer = ClientConnection.answer
    broken: list[ClientConnection] = []

    def fails_once(self: ClientConnection, *arguments: Any) -> bool:
        broken.append(self)
        if len(broken) == 200:
            raise RuntimeError("out of order")
        return answer(self, *arguments)

    monkeypatch.setattr(ClientConnection, "answer", fails_once)
    publish = b"POST /publish/room HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
    assert (await pbal.ask("chat", publish)).status == 202
    await pbal.until("poll_parked", 0)
    assert pbal.counts["poll_answered"] == 299
    for number, client in enumerate(crowd):
        if number != 199:
            assert (await read_response(client.reader)).body == b"hi\n"
    broken[199].abort()


# -- the log ---------------------------------------------------------------------------------------------------------


async def garbage(taken: Taken) -> None:
    while await taken.request():
        taken.say(b"no answer at all\r\n\r\n")


async def silence(taken: Taken) -> None:
    await taken.request()
    taken.writer.close()


async def cut_off(taken: Taken) -> None:
    await taken.request()
    taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    taken.writer.write_eof()


async def too_much(taken: Taken) -> None:
    while await taken.request():
        taken.say(OK + OK)


@pytest.mark.parametrize(
    ("request_bytes", "behaviour"),
    [
        (b"no request\r\n\r\n", silence), (get("/", "Content-Length: x"), silence), (get(), garbage), (get(), silence), (get(), cut_off),
        (get(), too_much),
    ],
)  # fmt: skip
@lab
async def test_warnings_of_a_request_are_limited(lab: Lab, caplog: pytest.LogCaptureFixture, request_bytes: bytes, behaviour) -> None:
    origin = await Scripted.start(lab, behaviour)
    pbal = await served(lab, origin)
    for _ in range(100):
        client = await Client.of(pbal, request=request_bytes)
        await client.reader.read(1)
        transport_of(client.writer).abort()
    said = [record for record in caplog.records if record.name.startswith("pbal")]
    assert 1 <= len(said) <= 25
    assert pbal.counts["log_lines_limited"] >= 75
