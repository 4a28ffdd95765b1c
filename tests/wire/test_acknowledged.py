"""Delivered means acknowledged: which answers are told lost, whatever way a client goes, and in which order.

The plugin parks every request under /park and answers one under /now when the test says so; the test says what is sent, and `lost` hears
of what did not get there.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
from authority import Authority
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until
from scripted import Client, get
from secure import files, secure, trusting

from pbal.model.deliveries import A_LOOK, A_TURN, TICKS, Deliveries
from pbal.model.world import World

PLUGIN = '''"""Parks what comes under /park, and takes what comes under /now."""

from pbal.api import Exchange, Plugin, Verdict, hook


class Record:
    ended = 0

    def gone(self):
        self.ended += 1

    def received(self, data):
        pass


class Keeping(Plugin):
    def __init__(self, service, world):
        super().__init__(service, world)
        self.records, self.taken, self.closed, self.rested = [], [], False, False

    @hook.start_http_request
    def take(self, exchange: Exchange) -> Verdict:
        if exchange.path == b"/now":
            self.taken.append(exchange)
            return Verdict.TAKEN
        if exchange.path != b"/park":
            return Verdict.PASS
        record = Record()
        record.client = exchange.park(record)
        self.records.append(record)
        return Verdict.TAKEN

    async def quiesce(self):
        self.rested = True

    def close(self):
        self.closed = True
'''
LARGE = b"x" * 3_000_000
"""More than a client takes whose buffer is small."""
HUGE = b"x" * 30_000_000
"""More than any client's socket takes."""


async def site(lab: Lab, more: str = "", listen: str = "127.0.0.1:0") -> Pbal:
    (lab.folder / "keeping.py").write_text(PLUGIN)
    (lab.folder / "page").write_text("a page")
    return await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD keeping
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = {listen}
          SET docroot = {lab.folder}
          SET plugins = keeping
          {more}
        ENABLE site
    """)


def plugin(pbal: Pbal) -> Any:
    return pbal.plugin("site", "keeping")


async def last(pbal: Pbal, number: int = 1) -> Any:
    """The record of the last client that waits, when there are so many."""
    await until(lambda: len(plugin(pbal).records) >= number, "a parked client")
    return plugin(pbal).records[-1]


async def parked(pbal: Pbal, request: bytes = b"", number: int = 1) -> tuple[Client, Any]:
    """A client that waits, and its record."""
    client = await Client.of(pbal, "site", request or get("/park"))
    return client, await last(pbal, number)


def never_reading(pbal: Pbal, request: bytes) -> socket.socket:
    """A client whose socket takes little, and who does not read it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(pbal.server.address("site"))
    sock.sendall(request)
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def forgotten(pbal: Pbal) -> None:
    """Wait until nothing can be lost any more."""
    deliveries = pbal.world.deliveries
    await until(lambda: not deliveries._newest, "all to be taken or lost")
    assert pbal.counts["answers_unacknowledged"] == 0


class Lost:
    """Hears of what is lost."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def of(self, name: str) -> Any:
        return partial(self.names.append, name)


CLOSING = (get("/park", version="1.0"), get("/park", "Connection: close"))
KINDS = (get("/park"), *CLOSING, get("/park") + get("/page"))


# -- one answer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", KINDS)
@lab
async def test_an_answer_is_lost_with_a_reset_right_after_it(lab: Lab, request_bytes: bytes) -> None:
    """Read or not: Linux resets a close with unread data, and says no more."""
    pbal, lost = await site(lab), Lost()
    client, record = await parked(pbal, request_bytes)
    assert record.client.answer(record, 200, (), b"message", lost.of("it"))
    assert (await read_response(client.reader)).body == b"message"
    client.reset()
    await pbal.until("clients", 0)
    assert lost.names == ["it"] and pbal.counts["answers_lost"] == 1
    await forgotten(pbal)


@pytest.mark.parametrize("request_bytes", KINDS)
@pytest.mark.parametrize("size", [len(LARGE), 300_000])
@lab
async def test_an_answer_that_is_not_read_is_lost_with_the_reset(lab: Lab, request_bytes: bytes, size: int) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    sock = never_reading(pbal, request_bytes)
    record = await last(pbal)
    assert record.client.answer(record, 200, (), b"x" * size, lost.of("it"))
    await asyncio.sleep(2.5 / TICKS)
    assert pbal.counts["answers_unacknowledged"] == 1 and not lost.names
    reset(sock)
    await pbal.until("clients", 0)
    assert lost.names == ["it"]
    await forgotten(pbal)


@pytest.mark.parametrize("request_bytes", KINDS)
@pytest.mark.parametrize("size", [len(LARGE), 10])
@lab
async def test_an_answer_is_taken_with_the_end_of_who_read_it(lab: Lab, request_bytes: bytes, size: int) -> None:
    pbal, lost = await site(lab), Lost()
    client, record = await parked(pbal, request_bytes)
    assert record.client.answer(record, 200, (), b"x" * size, lost.of("it"))
    assert len((await read_response(client.reader)).body) == size
    if request_bytes.endswith(get("/page")):
        assert (await read_response(client.reader)).body == b"a page"
    client.writer.close()
    await pbal.until("clients", 0)
    await forgotten(pbal)
    assert not lost.names and pbal.counts["answers_lost"] == 0


@lab
async def test_a_next_request_means_taken(lab: Lab) -> None:
    pbal, lost = await site(lab), Lost()
    client, record = await parked(pbal)
    record.client.answer(record, 200, (), b"one", lost.of("one"))
    assert (await read_response(client.reader)).body == b"one"
    client.writer.write(get("/park"))
    await last(pbal, 2)
    assert pbal.counts["answers_unacknowledged"] == 0 and not pbal.world.deliveries._newest
    client.reset()
    await pbal.until("clients", 0)
    assert not lost.names


@lab
async def test_a_request_that_did_not_wait_for_the_answer_says_nothing_of_it(lab: Lab) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    sock = never_reading(pbal, get("/park"))
    record = await last(pbal)
    record.client.answer(record, 200, (), LARGE, lost.of("it"))
    (connection,) = pbal.world.clients
    await until(lambda: connection.unsent_octets < len(LARGE), "some of it to go out")
    sock.sendall(get("/park"))
    await last(pbal, 2)
    assert pbal.counts["answers_unacknowledged"] == 1
    reset(sock)
    await pbal.until("clients", 0)
    assert lost.names == ["it"]


@lab
async def test_what_was_acknowledged_a_while_ago_is_not_lost(lab: Lab) -> None:
    pbal, lost = await site(lab), Lost()
    client, record = await parked(pbal)
    record.client.answer(record, 200, (), b"one", lost.of("one"))
    await pbal.until("answers_unacknowledged", 0)
    assert pbal.world.deliveries._newest, "it is held, since a reset may follow"
    await forgotten(pbal)
    client.reset()
    await pbal.until("clients", 0)
    assert not lost.names
    assert pbal.world.deliveries._timer is None, "the timer rests where nothing is to do"


@pytest.mark.parametrize("reads", [True, False])
@lab
async def test_a_half_closed_client_may_take_its_answer_yet(lab: Lab, reads: bool) -> None:
    pbal, lost = await site(lab, "SET half_close_timeout = 0"), Lost()
    if reads:
        client = await Client.of(pbal, "site", get("/now"))
        client.writer.write_eof()
    else:
        sock = never_reading(pbal, get("/now"))
        sock.shutdown(socket.SHUT_WR)
    await until(lambda: plugin(pbal).taken, "a request")
    (connection,) = pbal.world.clients
    await until(lambda: connection.half_closed, "its end")
    (exchange,) = plugin(pbal).taken
    assert exchange.respond(200, (), LARGE, lost.of("it"))
    if reads:
        assert (await client.rest()).endswith(LARGE)
        client.writer.close()
    else:
        await asyncio.sleep(2.5 / TICKS)
        assert not lost.names
        reset(sock)
    await pbal.until("clients", 0)
    await forgotten(pbal)
    assert lost.names == ([] if reads else ["it"])


@pytest.mark.parametrize("request_bytes", [KINDS[0], *CLOSING])
@lab
async def test_who_acknowledges_nothing_for_its_patience_has_lost_it(lab: Lab, request_bytes: bytes) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    sock = never_reading(pbal, request_bytes)
    record = await last(pbal)
    assert record.client.answer(record, 200, (), LARGE, lost.of("it"), 1.0)
    await pbal.until("clients", 0)
    assert lost.names == ["it"]
    await forgotten(pbal)
    sock.close()


@pytest.mark.parametrize("reads", [True, False])
@lab
async def test_a_kick_loses_what_is_not_acknowledged(lab: Lab, reads: bool) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    sock = never_reading(pbal, get("/park"))
    record = await last(pbal)
    record.client.begin(record, 200, (), b"")
    record.client.push(record, b"small" if reads else LARGE, lost.of("it"))
    await asyncio.sleep(0.05)
    record.client.kick(record)
    await pbal.until("clients", 0)
    assert lost.names == ([] if reads else ["it"])
    await forgotten(pbal)
    sock.close()


@lab
async def test_a_callback_that_fails_stops_nobody(lab: Lab) -> None:
    pbal, lost = await site(lab), Lost()
    client, record = await parked(pbal)
    record.client.begin(record, 200, (), b"")
    record.client.push(record, b"one", lost.of("one"))
    record.client.push(record, b"two", lambda: 1 // 0)
    client.reset()
    await pbal.until("clients", 0)
    assert lost.names == ["one"] and pbal.counts["answers_lost"] == 2 and pbal.counts["plugin_errors"] == 1


# -- streams -------------------------------------------------------------------------------------------------------------

UPGRADE = get("/park", "Connection: Upgrade", "Upgrade: echo")


@pytest.mark.parametrize("protocol", [False, True])
@pytest.mark.parametrize("how", ["reset", "kick", "finish"])
@lab
async def test_what_a_stream_lost_is_told_newest_first(lab: Lab, protocol: bool, how: str) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    sock = never_reading(pbal, UPGRADE if protocol else get("/park"))
    record = await last(pbal)
    if protocol:
        record.client.upgrade(record, b"echo", (), b"")
    else:
        record.client.begin(record, 200, (), b"")
    record.client.push(record, b"old", lost.of("old"))
    await forgotten(pbal)
    record.client.push(record, b"acknowledged", lost.of("acknowledged"))
    await pbal.until("answers_unacknowledged", 0)
    record.client.push(record, LARGE, lost.of("one"))
    record.client.push(record, b"not to be put back")
    record.client.push(record, b"two", lost.of("two"))
    record.client.push(record, b"three", lost.of("three"))
    assert pbal.counts["answers_unacknowledged"] == 3
    if how == "finish":
        record.client.finish(record, b"")
    if how == "kick":
        record.client.kick(record)
    else:
        reset(sock)
    await pbal.until("clients", 0)
    expected = ["three", "two", "one"]
    assert lost.names == ([*expected, "acknowledged"] if how != "kick" else expected), "a reset takes what came a moment ago"
    await forgotten(pbal)
    sock.close()


@pytest.mark.parametrize("protocol", [False, True])
@lab
async def test_a_stream_that_never_rests_lets_go_of_what_was_acknowledged(lab: Lab, protocol: bool) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    sock = never_reading(pbal, UPGRADE if protocol else get("/park"))
    sock.setblocking(False)
    record = await last(pbal)
    if protocol:
        record.client.upgrade(record, b"echo", (), b"")
    else:
        record.client.begin(record, 200, (), b"")
    old = [lost.of(f"old {number}") for number in range(3)]
    watched = [weakref.ref(call) for call in old]
    while old:
        record.client.push(record, b"o" * 50_000, old.pop(0))
    number = 0
    end = asyncio.get_running_loop().time() + DEADLINE
    while any(call() is not None for call in watched) or not record.client.unsent(record):
        assert asyncio.get_running_loop().time() < end, "the old ones are held for ever"
        number += 1
        record.client.push(record, b"n" * 30_000, lost.of(f"new {number}"))
        with contextlib.suppress(BlockingIOError):
            sock.recv(20_000)
        await asyncio.sleep(0.01)
    assert not lost.names
    reset(sock)
    await pbal.until("clients", 0)
    assert lost.names == [f"new {place}" for place in range(number, number - len(lost.names), -1)]
    await forgotten(pbal)


@lab
async def test_a_client_that_half_closes_its_stream_is_gone_and_takes_what_it_reads(lab: Lab) -> None:
    pbal, lost = await site(lab, "SET buffer_size = 8m"), Lost()
    client, record = await parked(pbal, UPGRADE)
    record.client.upgrade(record, b"echo", (), b"")
    record.client.push(record, LARGE, lost.of("it"))
    client.writer.write_eof()
    await until(lambda: record.ended == 1, "it to be told")
    assert (await client.rest()).endswith(LARGE)
    client.writer.close()
    await pbal.until("clients", 0)
    await forgotten(pbal)
    assert not lost.names and record.ended == 1


# -- under TLS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "version"),
    [
        ("end", "1.0"), ("end", "1.1"), ("end without close_notify", "1.1"), ("next", "1.1"), ("reset", "1.1"),
        ("not read", "1.0"), ("not read", "1.1"),
    ],
)  # fmt: skip
@lab
async def test_under_tls_likewise(lab: Lab, how: str, version: str) -> None:
    authority, lost = Authority(lab.folder), Lost()
    pbal = await site(lab, files(authority.certify("a.test")) + "\n          SET buffer_size = 64m")
    client = Client(*await secure(pbal, "site", trusting(authority)))
    client.writer.write(get("/park", version=version))
    record = await last(pbal)
    if how == "not read":
        transport_of(client.writer).pause_reading()
        await asyncio.sleep(0.05)
    record.client.answer(record, 200, (), HUGE if how == "not read" else b"message", lost.of("it"))
    if how == "not read":
        await asyncio.sleep(2.5 / TICKS)
        assert pbal.counts["answers_unacknowledged"] == 1
    else:
        assert (await read_response(client.reader)).body == b"message"
    if how == "next":
        client.writer.write(get("/park"))
        await last(pbal, 2)
        client.reset()
    elif how == "end":
        client.writer.close()
    elif how == "end without close_notify":
        with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)
    else:
        client.reset()
    await pbal.until("clients", 0)
    await forgotten(pbal)
    assert lost.names == (["it"] if how in ("reset", "not read") else [])


@pytest.mark.parametrize("fields", [(), ("Connection: close",)])
@lab
async def test_under_tls_who_does_not_read_our_end_has_its_answer_all_the_same(lab: Lab, fields: tuple[str, ...]) -> None:
    """close_notify is octets: a close that leaves them unread is a reset."""
    authority, lost = Authority(lab.folder), Lost()
    pbal = await site(lab, files(authority.certify("a.test")))

    def ask() -> bytes:
        data = b""
        with (
            socket.create_connection(pbal.server.address("site")) as sock,
            trusting(authority).wrap_socket(sock, server_hostname="a.test") as secured,
        ):
            secured.sendall(get("/park", *fields))
            while not data.endswith(b"message"):
                data += secured.recv(4096)
            time.sleep(0.1)  # whatever comes behind it is there
        return data

    asking = asyncio.create_task(asyncio.to_thread(ask))
    record = await last(pbal)
    record.client.answer(record, 200, (), b"message", lost.of("it"))
    assert (await asking).endswith(b"message")
    await pbal.until("clients", 0)
    assert not lost.names
    await forgotten(pbal)


@lab
async def test_under_tls_who_waits_for_our_end_gets_it(lab: Lab) -> None:
    authority, lost = Authority(lab.folder), Lost()
    pbal = await site(lab, files(authority.certify("a.test")))
    client = Client(*await secure(pbal, "site", trusting(authority)))
    client.writer.write(get("/park", version="1.0"))
    record = await last(pbal)
    record.client.begin(record, 200, (), b"one")
    record.client.push(record, b"message", lost.of("it"))
    record.client.finish(record, b"end")
    assert (await client.rest()).endswith(b"onemessageend")
    client.writer.close()
    await pbal.until("clients", 0)
    assert not lost.names


@lab
async def test_under_tls_an_answer_is_followed_to_the_socket(lab: Lab) -> None:
    """A client of records whose kernel takes a few of them."""
    authority, lost = Authority(lab.folder), Lost()
    pbal = await site(lab, files(authority.certify("a.test")) + "\n          SET buffer_size = 8m")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, pbal.server.address("site"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="a.test")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            await asyncio.get_running_loop().sock_sendall(raw, outgoing.read())
            incoming.write(await asyncio.get_running_loop().sock_recv(raw, 65536))
    tls.write(UPGRADE)
    await asyncio.get_running_loop().sock_sendall(raw, outgoing.read())
    record = await last(pbal)
    record.client.upgrade(record, b"echo", (), b"")
    record.client.push(record, b"first", lost.of("first"))
    await forgotten(pbal)
    record.client.push(record, LARGE, lost.of("second"), 1.0)
    record.client.push(record, b"more", lost.of("third"), 1.0)
    await pbal.until("clients", 0)
    assert lost.names == ["third", "second"] and record.ended == 1
    raw.close()


# -- a peer that vanishes ------------------------------------------------------------------------------------------------

VANISHING = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(sys.argv[3].encode().decode("unicode_escape").encode())
time.sleep(60)
"""


@contextlib.contextmanager
def other_network(name: str) -> Iterator[str]:
    """A network namespace `name`, linked to 10.213.77.1; "" or why the machine does not allow one."""
    commands = (
        f"netns add {name}", f"link add {name}a type veth peer name {name}b", f"link set {name}b netns {name}",
        f"addr add 10.213.77.1/30 dev {name}a", f"link set {name}a up",
        f"-n {name} addr add 10.213.77.2/30 dev {name}b", f"-n {name} link set {name}b up",
    )  # fmt: skip
    why = "" if shutil.which("ip") else "there is no ip(8)"
    try:
        for command in commands:
            if not why:
                done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
                why = f"ip {command}: {done.stderr.strip()}" if done.returncode else ""
        yield why
    finally:
        if shutil.which("ip"):
            subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def in_network(name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", program, *arguments])


def cut(name: str) -> None:
    subprocess.run(["ip", "-n", name, "link", "set", f"{name}b", "down"], check=True)


@pytest.mark.parametrize("request_bytes", [KINDS[0], *CLOSING])
@lab
async def test_a_peer_that_vanished_has_lost_its_answer(lab: Lab, request_bytes: bytes) -> None:
    """The link is cut, and nothing says so: neither an end nor a reset."""
    name, lost = f"pbal{os.getpid() % 100_000}", Lost()
    with other_network(name) as why:
        if why:
            sys.stdout.write(f"no network of its own here, so nobody can vanish from it: {why}\n")
            return
        pbal = await site(lab, listen="10.213.77.1:0")
        host, port = pbal.server.address("site")
        text = request_bytes.decode().encode("unicode_escape").decode()
        process = in_network(name, VANISHING, host, str(port), text)
        try:
            record = await last(pbal)
            cut(name)
            assert record.client.answer(record, 200, (), b"message", lost.of("it"), 1.0)
            await pbal.until("clients", 0)
            assert lost.names == ["it"]
            await forgotten(pbal)
        finally:
            process.kill()
            process.wait()


# -- the end of the server -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", [KINDS[0], KINDS[1]])
@lab
async def test_plugins_hear_of_what_is_lost_before_they_close(lab: Lab, request_bytes: bytes) -> None:
    pbal, heard = await site(lab), []
    sock = never_reading(pbal, request_bytes)
    record = await last(pbal)
    own = plugin(pbal)
    record.client.answer(record, 200, (), LARGE, lambda: heard.append(own.closed))
    await asyncio.sleep(0.05)
    await pbal.server.close()
    assert heard == [False] and own.rested and own.closed
    sock.close()


@lab
async def test_a_graceful_end_waits_for_acknowledgements(lab: Lab) -> None:
    pbal, lost = await site(lab), Lost()
    client, record = await parked(pbal)
    transport_of(client.writer).pause_reading()
    record.client.answer(record, 200, (), HUGE, lost.of("it"))
    assert await pbal.say("SHUTDOWN GRACEFUL") in ("OK", "")
    await asyncio.sleep(0.1)
    assert pbal.world.clients
    transport_of(client.writer).resume_reading()
    assert (await read_response(client.reader)).body == HUGE
    assert await client.rest() == b""
    client.writer.close()
    await pbal.until("clients", 0)
    assert not lost.names


# -- bounded -------------------------------------------------------------------------------------------------------------


class Socket:
    def __init__(self) -> None:
        self.sock, self._other = socket.socketpair()
        self.looks = 0

    def get_extra_info(self, _: str) -> socket.socket:
        self.looks += 1
        return self.sock

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.sock.close()
        self._other.close()


@lab
async def test_many_answers_of_a_moment_are_looked_at_over_several_turns(lab: Lab) -> None:
    world = World()
    deliveries = Deliveries(world)
    transports = [Socket() for _ in range(400)]
    lost = Lost()
    for transport in transports:
        for _ in range(3):
            deliveries.add(cast(asyncio.WriteTransport, transport), 1, lost.of("it"), 30)
    turns: list[int] = []
    while deliveries._newest:
        turns.append(sum(transport.looks for transport in transports))
        await asyncio.sleep(0)
    looks = [after - before for before, after in pairwise(turns)]
    assert sum(looks) == len(transports), "one for each connection, however many answers"
    assert max(looks) <= A_TURN // A_LOOK and not lost.names and world.counters.counts["answers_unacknowledged"] == 0
    for transport in transports:
        transport.close()
