"""Nodes that are known by name: looked up off the loop, again and again, and the last good answer kept."""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from authority import Authority
from lab import Lab, Pbal, lab, read_response, until
from scripted import Client, get, proxy
from secure import secure_origin

from pbal.model import resolving


class Nameserver:
    """What names mean, instead of what the system says. An answer is addresses, or an error; while `held`, none comes."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...] | OSError] = {}
        self.asked: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.most = self._running = 0
        self.free = threading.Event()
        self.free.set()
        self._lock = threading.Lock()

    def look_up(self, host: str) -> tuple[str, ...]:
        with self._lock:
            self.asked.append(host)
            self.threads.add(threading.current_thread())
            self._running += 1
            self.most = max(self.most, self._running)
        assert self.free.wait(10)
        with self._lock:
            self._running -= 1
        answer = self.answers.get(host, OSError(-2, "Name or service not known"))
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameserver]:
    """Names are looked up here."""
    nameserver = Nameserver()
    monkeypatch.setattr(resolving, "look_up", nameserver.look_up)
    monkeypatch.setattr(resolving, "SOONEST", 0.05)
    yield nameserver
    nameserver.free.set()


async def node(lab: Lab, said: bytes, port: int = 0, host: str = "127.0.0.1") -> int:
    """A node that answers every request with one text; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
        except (EOFError, OSError):
            writer.close()

    server = await asyncio.start_server(answer, host, port)
    lab.keep(server)
    found: int = server.sockets[0].getsockname()[1]
    return found


async def two(lab: Lab) -> int:
    """Two nodes at one port of two addresses, .1 and .2, that say which they are."""
    for _ in range(20):
        port = await node(lab, b"one")
        try:
            await node(lab, b"two", port, "127.0.0.2")
        except OSError:
            continue
        return port
    raise AssertionError("no port is free at both addresses")


async def once(pbal: Pbal, *fields: str) -> tuple[int, bytes]:
    """A request on a connection of its own: status and body."""
    got = await pbal.ask("web", get("/", *fields))
    return got.status, got.body


def look_again(pbal: Pbal) -> None:
    """What the tick does when every name is due."""
    pbal.world.names.tick(pbal.world.clock.now() + 3600)


ONE_EACH = "SET persist_backend = off"


@lab
async def test_requests_that_come_before_the_first_answer_wait_for_it_and_share_it(lab: Lab, names: Nameserver) -> None:
    port = await node(lab, b"here")
    names.answers["app.internal"] = ("127.0.0.1",)
    names.free.clear()
    pbal = await lab.pbal(proxy(f"app.internal:{port}", more=ONE_EACH))
    clients = [await Client.of(pbal, request=get()) for _ in range(20)]
    await until(lambda: pbal.world.pool("app").nodes[0].connecting == 20, "all to wait")
    names.free.set()
    assert [(await read_response(client.reader)).body for client in clients] == [b"here"] * 20
    assert [await once(pbal) for _ in range(20)] == [(200, b"here")] * 20
    assert names.asked == ["app.internal"] and pbal.counts["name_lookups"] == 1
    assert all(thread.daemon for thread in names.threads), "nobody waits for them at the end"
    (row,) = json.loads(await pbal.say("show names as json"))
    assert (row["name"], row["addresses"], row["failures"], row["why"]) == ("app.internal", ["127.0.0.1"], 0, None)
    assert 0 <= row["age"] < 27 <= row["next"] + row["age"] <= 33.1


@lab
async def test_neither_start_nor_pool_add_waits_for_dns_or_fails_by_it(
    lab: Lab, names: Nameserver, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that never answers, and one that is not known: whoever else is in the pool serves."""
    port = await node(lab, b"here")
    names.free.clear()
    pbal = await lab.pbal(proxy(f"hangs.internal:{port}", more="SET connect_timeout = 100ms"))
    assert await pbal.say(f"POOL app ADD unknown.internal:{port}") == "OK"
    assert (await once(pbal))[0] == 504
    names.free.set()
    assert (await once(pbal))[0] == 502
    assert await pbal.say(f"POOL app ADD 127.0.0.1:{port}") == "OK"
    assert [await once(pbal) for _ in range(8)] == [(200, b"here")] * 8
    port_of_web = pbal.server.address("web")[1]
    assert f"unknown.internal:{port} at no known address" in await pbal.say(f"explain GET http://127.0.0.1:{port_of_web}/")
    assert "is known: Name or service not known" in await pbal.say("show errors")
    health = await pbal.say("show health")
    assert "no address of unknown.internal is known: Name or service not known" in health
    assert "cannot find the address of unknown.internal: Name or service not known" in caplog.text
    assert pbal.counts["name_lookup_failures"] >= 2 and "unknown.internal unknown, next lookup in" in await pbal.say("show names")


@lab
async def test_a_name_with_two_addresses_is_one_node_that_uses_both(lab: Lab, names: Nameserver) -> None:
    port = await two(lab)
    names.answers["app.internal"] = ("127.0.0.1", "127.0.0.2")
    pbal = await lab.pbal(proxy(f"app.internal:{port}", more=ONE_EACH))
    said = [(await once(pbal))[1] for _ in range(6)]
    assert said.count(b"one") == said.count(b"two") == 3
    assert (await pbal.say("show pool app")).splitlines()[0] == f"app.internal:{port} 6"
    port_of_web = pbal.server.address("web")[1]
    assert f"app.internal:{port} at 127.0.0.1 127.0.0.2 UP" in await pbal.say(f"explain GET http://127.0.0.1:{port_of_web}/")


@lab
async def test_where_one_address_is_not_reached_the_next_is_within_the_same_attempt(lab: Lab, names: Nameserver) -> None:
    port = await node(lab, b"one")
    names.answers["app.internal"] = ("127.0.0.2", "127.0.0.3", "127.0.0.1")
    pbal = await lab.pbal(proxy(f"app.internal:{port}", more=ONE_EACH))
    assert [await once(pbal) for _ in range(6)] == [(200, b"one")] * 6
    name = pbal.world.names.known["app.internal"]
    assert set(name.unreachable) == {"127.0.0.2", "127.0.0.3"} and name.in_turn(0)[0] == "127.0.0.1"
    assert pbal.counts["backend_connect_failures"] == 0
    names.answers["app.internal"] = ("127.0.0.2",)
    look_again(pbal)
    await until(lambda: name.addresses == ("127.0.0.2",), "the next answer")
    assert (await once(pbal))[0] == 502
    assert "last error 0s ago: connection refused" in await pbal.say("show health")


@lab
async def test_a_silent_address_has_only_its_share_of_the_time(lab: Lab, names: Nameserver) -> None:
    """The first address takes no connection: its queue is full. The second one answers within connect_timeout."""
    deaf = socket.socket()
    deaf.bind(("127.0.0.2", 0))
    deaf.listen(0)
    port = deaf.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.2", port))
    await node(lab, b"one", port)
    names.answers["app.internal"] = ("127.0.0.1", "127.0.0.2")
    pbal = await lab.pbal(proxy(f"app.internal:{port}", more=f"SET connect_timeout = 400ms;{ONE_EACH}"))
    assert [await once(pbal) for _ in range(3)] == [(200, b"one")] * 3
    for sock in (deaf, *fillers):
        sock.close()


@lab
async def test_an_address_that_went_is_left_and_who_works_there_finishes(
    lab: Lab, names: Nameserver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = await two(lab)
    names.answers["app.internal"] = ("127.0.0.1",)
    pbal = await lab.pbal(proxy(f"app.internal:{port}"))
    assert await once(pbal) == (200, b"one")
    (before,) = pbal.world.backends
    names.answers["app.internal"] = ("127.0.0.2",)
    look_again(pbal)
    await pbal.until("name_changes", 1)
    await until(lambda: before.state == "closed", "its idle connection to be closed")
    assert await once(pbal) == (200, b"two")
    assert "app.internal is at 127.0.0.2" in caplog.text
    (busy,) = pbal.world.backends
    busy.state = "wait_res"  # as while it works
    names.answers["app.internal"] = ("127.0.0.1", "127.0.0.3")
    look_again(pbal)
    await pbal.until("name_changes", 2)
    assert busy.suspect and not busy.closing
    busy.state = "bored"


@lab
async def test_the_last_good_answer_stays_while_lookups_fail(lab: Lab, names: Nameserver, caplog: pytest.LogCaptureFixture) -> None:
    port = await node(lab, b"here")
    names.answers["app.internal"] = ("127.0.0.1",)
    pbal = await lab.pbal(proxy(f"app.internal:{port}"))
    assert await once(pbal) == (200, b"here")
    (kept,) = pbal.world.backends
    del names.answers["app.internal"]
    for number in (1, 2):
        look_again(pbal)
        await pbal.until("name_lookup_failures", number)
    assert await once(pbal) == (200, b"here") and kept.state == "bored" and pbal.counts["backend_reuses"] == 1
    assert "app.internal 127.0.0.1 since" in await pbal.say("show names")
    assert "cannot find its address: Name or service not known; 127.0.0.1 stays in use" in await pbal.say("show health")
    names.answers["app.internal"] = ("127.0.0.1",)
    look_again(pbal)
    name = pbal.world.names.known["app.internal"]
    await until(lambda: not name.failed, "a good answer")
    assert name.failures == 0 and pbal.counts["name_changes"] == 0
    assert "127.0.0.1 stays in use" in caplog.text


@lab
async def test_lookups_are_bounded_and_names_that_no_node_has_are_forgotten(lab: Lab, names: Nameserver) -> None:
    names.free.clear()
    pbal = await lab.pbal(proxy(*(f"n{number}.internal:80" for number in range(30)), pool="SET resolve_interval = 0"))
    await until(lambda: len(names.asked) == resolving.MOST, "as many as may")
    names.answers |= {f"n{number}.internal": ("127.0.0.1",) for number in range(30)}
    names.free.set()
    await pbal.until("name_lookups", 30)
    assert names.most == resolving.MOST and len(set(names.asked)) == 30
    assert "n7.internal 127.0.0.1 since" in await pbal.say("show names") and "next lookup never" in await pbal.say("show names")
    for number in range(1, 30):
        assert await pbal.say(f"POOL app REMOVE n{number}.internal:80") == "OK"
    pbal.world.names.tick(pbal.world.clock.now())
    assert list(pbal.world.names.known) == ["n0.internal"] and pbal.counts["name_lookups"] == 30
    assert await pbal.say("SET app.resolve_interval = 50ms") == "OK"
    now = pbal.world.clock.now()
    pbal.world.names.tick(now)
    pbal.world.names.tick(now + 0.05)
    await pbal.until("name_lookups", 31)


@lab
async def test_a_server_that_ends_while_a_lookup_hangs_waits_for_nothing(lab: Lab, names: Nameserver) -> None:
    names.free.clear()
    pbal = await lab.pbal(proxy("hangs.internal:80"))
    client = await Client.of(pbal, request=get())
    await until(lambda: names.asked == ["hangs.internal"], "the lookup")
    lab._pbals.remove(pbal)
    await pbal.close()
    with contextlib.suppress(ConnectionError):
        assert await client.rest() == b""
    (thread,) = names.threads
    assert thread.is_alive() and thread.daemon


@lab
async def test_tls_to_a_node_asks_for_the_name_and_verifies_it_whatever_the_address(lab: Lab, names: Nameserver) -> None:
    authority = Authority(lab.folder)

    port = (await secure_origin(lab, authority.certify("app.internal"), [])).rpartition(":")[2]
    names.answers |= {"app.internal": ("127.0.0.1",), "other.internal": ("127.0.0.1",)}
    tls = f"SET ssl_backend = on;SET ssl_backend_ca = {authority.file}"
    pbal = await lab.pbal(proxy(f"app.internal:{port}", more=tls))
    assert (await once(pbal))[0] == 200
    assert await pbal.say(f"POOL app ADD other.internal:{port}") == "OK"
    assert await pbal.say(f"POOL app REMOVE app.internal:{port}") == "OK"
    assert (await once(pbal))[0] == 502
    health = await pbal.say("show health")
    assert "certificate verify failed" in health and "other.internal" in health


@pytest.mark.parametrize("way", ["an address", "a Unix socket"])
@pytest.mark.parametrize("right", [True, False])
@lab
async def test_tls_to_nodes_without_a_name_verifies_the_address_or_localhost(lab: Lab, way: str, right: bool) -> None:
    """What is wrong is said of the node and of the request."""
    authority = Authority(lab.folder)
    pair = authority.certify({"an address": "127.0.0.1", "a Unix socket": "localhost"}[way] if right else "else.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.file, pair.key_file)
    asked: list[str | None] = []
    context.sni_callback = lambda link, name, _: asked.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (EOFError, OSError):
            writer.close()

    if way == "an address":
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        node = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(answer, lab.folder / "node.sock", ssl=context)
        node = f"unix:{lab.folder / 'node.sock'}"
    lab.keep(server)
    pbal = await lab.pbal(proxy(node, more=f"SET ssl_backend = on;SET ssl_backend_ca = {authority.file}"))
    for _ in range(2):
        assert await once(pbal) == ((200, b"ok") if right else (502, b"No node gave a usable answer.\n"))
    assert asked[0] == (None if way == "an address" else "localhost"), "RFC 6066: an address is no name"
    if not right:
        assert "certificate verify failed" in await pbal.say("show errors")
        assert "certificate verify failed" in await pbal.say("show health")


def test_the_system_is_asked_as_it_says() -> None:
    assert set(resolving.look_up("localhost")) <= {"127.0.0.1", "::1"}
    for wrong in ("x" * 64 + ".internal", "no-such-name.invalid"):
        with pytest.raises(OSError) as error:
            resolving.look_up(wrong)
        assert error.value.strerror
