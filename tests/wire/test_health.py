"""Nodes that are up, down, drained and in maintenance: what clients get, what nodes see, what operators are told."""

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from lab import Lab, Pbal, free_port, lab, read_response, until
from scripted import OK, Client, Scripted, Taken, get, proxy
from secure import secure_origin

from pbal.commands.interpreter import Interpreter
from pbal.model.world import World
from pbal.net.tasks import running

READYZ = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHECKED = "SET check = http;SET check_path = /healthz;SET check_interval = 50ms;SET check_timeout = 200ms"


class App:
    """A node that answers every request at once with its `status`; `silent`: not at all, `cut`: it closes instead."""

    def __init__(self) -> None:
        self.status = 200
        self.silent = self.cut = False
        self.heads: list[bytes] = []
        self.address = ""
        self.scripted = Scripted()

    @classmethod
    async def start(cls, lab: Lab) -> "App":
        app = cls()
        app.scripted = await Scripted.start(lab, app.serve)
        app.address = app.scripted.address
        return app

    async def serve(self, taken: Taken) -> None:
        while True:
            self.heads.append(await taken.reader.readuntil(b"\r\n\r\n"))
            if self.cut:
                taken.writer.transport.abort()
                return
            if not self.silent:
                taken.say(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % self.status)

    def got(self, path: bytes) -> int:
        return len([head for head in self.heads if head.split(b" ")[1] == path])


async def health(pbal: Pbal, node: str) -> dict[str, Any]:
    """The row of a node in `show health`."""
    rows = json.loads(await pbal.say("show health AS JSON"))
    return next(row for row in rows if row["node"] == node)


def timeless(text: str) -> str:
    """A text whose times do not matter."""
    return re.sub(r"\bfor [0-9]+s", "for Ns", text)


async def asked(pbal: Pbal, times: int) -> list[int]:
    """The statuses of so many requests, one after the other on one connection."""
    reader, writer = await pbal.connect("web")
    found = []
    for _ in range(times):
        writer.write(get("/x"))
        found.append((await read_response(reader)).status)
    return found


# -- what requests met ---------------------------------------------------------------------------------------------------


@lab
async def test_a_node_that_breaks_every_request_is_ejected_and_comes_back_by_one_that_it_answers(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(3)]
    apps[0].cut = True
    pbal = await lab.pbal(proxy(*(app.address for app in apps), pool="SET eject_time = 1h;SET balance_method = round_robin"))
    assert await asked(pbal, 40) == [200] * 40, "who is safe to ask again is asked elsewhere"
    await until(lambda: pbal.world.pool("app").nodes[0].ejections, "it to be ejected")
    found = await health(pbal, apps[0].address)
    assert (found["state"], found["used"], found["by"]) == ("DOWN", "no", None)
    assert "failures in a row, the last: no response" in found["why"]
    assert "ejected 1 times" in await pbal.say("show health")
    broken = len(apps[0].heads)
    assert 5 <= broken <= 6
    apps[0].cut = False
    node = pbal.world.pool("app").nodes[0]
    node.ejected_until = pbal.world.clock.now()  # its time is over
    node.pool.flip()
    while node.trial or node.ejected:
        assert await asked(pbal, 5) == [200] * 5
    assert (await health(pbal, apps[0].address))["state"] == "UP"
    await asked(pbal, 30)
    assert len(apps[0].heads) > broken + 1


@pytest.mark.parametrize("method", ["random", "least_connections", "round_robin"])
def test_of_a_node_that_hangs_few_requests_wait_and_none_when_it_is_ejected(method: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        apps = [await App.start(lab) for _ in range(3)]
        apps[1].silent = True
        pool = f"SET balance_method = {method}"
        pbal = await lab.pbal(proxy(*(app.address for app in apps), pool=pool))
        node = pbal.world.pool("app").nodes[1]

        async def ask_on() -> None:
            reader, writer = await pbal.connect("web")
            for _ in range(20):
                writer.write(get("/x"))
                assert (await read_response(reader)).status == 200

        clients = [asyncio.ensure_future(ask_on()) for _ in range(80)]

        def others_are_done() -> bool:
            return sum(client.done() for client in clients) + node.active == len(clients)

        await until(others_are_done, "the others to get all their answers")
        waiting = len(apps[1].heads)
        assert waiting == node.active < 60
        while not node.stalls:
            clients.extend(asyncio.ensure_future(ask_on()) for _ in range(3))
            await until(others_are_done, "the others to get theirs")
        waiting = node.active
        found = await health(pbal, apps[1].address)
        assert (found["state"], found["stalls"], found["used"]) == ("DOWN", 1, "no")
        assert found["why"] == f"no answer to the last {waiting} requests"
        assert await asked(pbal, 50) == [200] * 50
        assert len(apps[1].heads) == waiting
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    run()


@pytest.mark.parametrize("method", ["random", "least_connections", "p2c"])
def test_a_node_that_fails_at_once_draws_no_more_than_the_others(method: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        apps = [await App.start(lab) for _ in range(2)]
        failing = await App.start(lab)
        failing.status = 503
        refusing = f"127.0.0.1:{free_port()}"
        nodes = (failing.address, *(app.address for app in apps), refusing)
        pbal = await lab.pbal(proxy(*nodes, pool=f"SET balance_method = {method}"))
        statuses = [status for each in await asyncio.gather(*(asked(pbal, 20) for _ in range(10))) for status in each]
        assert statuses.count(200) + statuses.count(503) == 200
        assert statuses.count(503) == len(failing.heads) <= 5 + 9, "those that were under way when the fifth came"
        assert pbal.world.pool("app").nodes[0].ejected
        assert pbal.counts["backend_connect_failures"] <= 20, "some at once, then it is passed over"
        assert [(await health(pbal, node))["state"] for node in nodes] == ["DOWN", "UP", "UP", "DOWN"]

    run()


@lab
async def test_silence_of_response_timeout_is_a_failure(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(2)]
    apps[0].silent = True
    pool = "SET eject_after = 2;SET stall_after = 0;SET balance_method = round_robin"
    pbal = await lab.pbal(proxy(*(app.address for app in apps), pool=pool, more="SET response_timeout = 100ms"))
    node = pbal.world.pool("app").nodes[0]
    clients = [await Client.of(pbal, request=get()) for _ in range(12)]
    statuses = [(await read_response(client.reader)).status for client in clients]
    assert statuses.count(504) >= 2
    assert node.ejected
    assert await asked(pbal, 20) == [200] * 20


@lab
async def test_the_only_node_is_asked_whatever_it_did(lab: Lab) -> None:
    app = await App.start(lab)
    app.cut = True
    pbal = await lab.pbal(proxy(app.address))
    assert await asked(pbal, 10) == [502] * 10
    app.cut = False
    assert await asked(pbal, 1) == [200]
    pool = pbal.world.pool("app")
    assert (pool.nodes[0].ejections, pool.open) == (0, False)


# -- checks ------------------------------------------------------------------------------------------------------------


@lab
async def test_checks_take_a_node_down_and_bring_it_up(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(2)]
    apps[0].status = 503
    pbal = await lab.pbal(proxy(*(app.address for app in apps), pool=CHECKED + ";SET check_host = app.example;SET check_rise = 3"))
    node, other = pbal.world.pool("app").nodes
    await until(lambda: other.check == "UP" and node.check == "DOWN", "the first check to count")
    head = apps[0].heads[0]
    assert head.startswith(b"GET /healthz HTTP/1.1\r\nHost: app.example\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert await asked(pbal, 20) == [200] * 20
    assert apps[0].got(b"/x") == 0
    found = await health(pbal, apps[0].address)
    assert (found["state"], found["why"], found["check"]) == ("DOWN", "check: status 503", "DOWN")
    bad = node.checks
    apps[0].status = 201
    await until(lambda: node.check == "UP", "it to be up")
    assert node.checks >= bad + 3
    await asked(pbal, 40)
    assert apps[0].got(b"/x") > 0
    assert (await health(pbal, apps[0].address))["state"] == "UP"
    assert (await pbal.say("SET app.check = off")) == "OK"
    await until(lambda: node.check == "UNKNOWN", "what checks found to be forgotten")

    def open_ones() -> int:
        return sum(not taken.is_gone for app in apps for taken in app.scripted.connections)

    await until(lambda: open_ones() == len(pbal.world.backends), "the connections of checks to close")


@lab
async def test_an_interval_that_becomes_shorter_holds_at_once(lab: Lab) -> None:
    app = await App.start(lab)
    pbal = await lab.pbal(proxy(app.address, pool=CHECKED.replace("= 50ms", "= 1h")))
    (node,) = pbal.world.pool("app").nodes
    await until(lambda: node.checks == 1, "the first check")
    assert await pbal.say("SET app.check_interval = 50ms") == "OK"
    await until(lambda: node.checks > 2, "more of them")


@lab
async def test_what_is_wrong_is_said(lab: Lab) -> None:
    async def close(taken: Taken) -> None:
        await taken.reader.readuntil(b"\r\n\r\n")
        taken.writer.close()

    async def rubbish(taken: Taken) -> None:
        taken.say(b"SSH-2.0-x\r\n\r\n")

    async def endless(taken: Taken) -> None:
        while True:
            taken.say(b"HTTP/1.1 103 X\r\nLink: </a>\r\n\r\n" * 100)
            await taken.writer.drain()

    silent, closing = await Scripted.start(lab), await Scripted.start(lab, close)
    bad, never = await Scripted.start(lab, rubbish), await Scripted.start(lab, endless)
    refusing = f"127.0.0.1:{free_port()}"
    nodes = (silent.address, closing.address, bad.address, never.address, refusing)
    pbal = await lab.pbal(proxy(*nodes, pool=CHECKED + ";SET check_timeout = 100ms;SET check_fall = 1000"))
    pool = pbal.world.pool("app")
    wrong = [
        "no answer within 0.1 s", "it closed the connection without an answer", "the status line is malformed",
        "more octets than an answer's head has", "connection refused",
    ]  # fmt: skip
    # On a machine that is busy a check may be too late; there are more of them.
    await until(lambda: [node.check_error for node in pool.nodes] == wrong, "every node to be checked")
    assert "used all the same" in await pbal.say("show health"), "none is well, and all are asked"
    assert 'pool_open{pool="app"} 1' in await pbal.say("show counters LIKE pool_open*")


@lab
async def test_tcp_checks_say_nothing_and_a_port_of_its_own_is_asked(lab: Lab) -> None:
    app, beside = await App.start(lab), await Scripted.start(lab)
    port = beside.address.rpartition(":")[2]
    pbal = await lab.pbal(proxy(app.address, pool=f"SET check = tcp;SET check_interval = 50ms;SET check_port = {port}"))
    node = pbal.world.pool("app").nodes[0]
    await until(lambda: node.checks > 2, "checks")
    assert node.check == "UP"
    assert (app.scripted.connections, app.heads) == ([], [])
    assert await (await beside.connection()).gone() == b""


@lab
async def test_nodes_at_unix_sockets_are_checked(lab: Lab) -> None:
    path = str(lab.folder / "app.sock")
    app = App()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await app.serve(Taken(reader, writer))
        except EOFError:
            writer.close()

    lab.keep(await asyncio.start_unix_server(serve, path))
    pbal = await lab.pbal(proxy(f"unix:{path}", pool=CHECKED))
    await until(lambda: pbal.world.pool("app").nodes[0].check == "UP", "it to be up")
    assert b"\r\nHost: localhost\r\n" in app.heads[0]


@pytest.mark.parametrize(("name", "more", "error"), [
    ("127.0.0.1", "SET ssl_backend_ca = {ca}", ""),
    ("elsewhere.test", "SET ssl_backend_ca = {ca};SET ssl_backend_name = elsewhere.test", ""),
    ("elsewhere.test", "SET ssl_backend_ca = {ca}", "certificate verify failed: IP address mismatch"),
])  # fmt: skip
def test_checks_speak_tls_as_the_service_does(name: str, more: str, error: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        node = await secure_origin(lab, authority.certify(name), [])
        text = proxy(node, pool="SET check = http;SET check_interval = 1h", more="SET ssl_backend = on;" + more.format(ca=authority.file))
        pbal = await lab.pbal(text)
        pool = pbal.world.pool("app")
        await until(lambda: pool.nodes[0].checks, "a check")
        assert error in pool.nodes[0].check_error and bool(error) == bool(pool.nodes[0].check_error)
        assert await pbal.say("SET web.ssl_backend = off") == "OK"
        await pbal.say("CHECK app")
        assert pool.nodes[0].check_error == "it closed the connection without an answer"

    run()


@lab
async def test_nothing_is_left_of_checks_when_pbal_ends(lab: Lab) -> None:
    silent = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(silent.address, pool=CHECKED + ";SET check_timeout = 1h"))
    taken = await silent.connection()
    await taken.request()
    assert [name for name in running() if name.startswith("check ")] == [f"check app {silent.address}"]
    await pbal.close()
    assert await taken.gone() == b""
    await until(lambda: not [name for name in running() if name.startswith("check ")], "its check to end")


@lab
async def test_check_now(lab: Lab) -> None:
    app = await App.start(lab)
    pbal = await lab.pbal(proxy(app.address, pool="SET check_interval = 1h"))
    assert "pool 'app' has no checks: SET app.check = http" in await pbal.say("CHECK app")
    assert await pbal.say("SET app.check = http") == "OK"
    assert await pbal.say(f"CHECK app {app.address}") == f"{app.address} UP, check UP\n."
    app.status = 404
    assert json.loads(await pbal.say("CHECK app AS JSON")) == [{"node": app.address, "state": "UP", "check": "UP", "error": "status 404"}]
    await pbal.say("CHECK app")
    assert await pbal.say("CHECK app") == f"{app.address} DOWN, check DOWN: status 404\n."
    assert "has no node 127.0.0.1:1" in await pbal.say("CHECK app 127.0.0.1:1")
    assert await pbal.say("CREATE POOL alone") == "OK"
    assert await pbal.say("SET alone.check = tcp") == "OK"
    assert await pbal.say(f"POOL alone ADD {app.address}") == "OK"
    assert "no enabled service uses pool 'alone'" in await pbal.say("CHECK alone")
    assert pbal.world.pool("alone").nodes[0].checks == 0, "a pool that nobody uses is not checked"


# -- orders ------------------------------------------------------------------------------------------------------------


@lab
async def test_drain_and_maintenance(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, second = await Scripted.start(lab), await App.start(lab)
    text = proxy(first.address, second.address, pool=CHECKED.replace("= http", "= tcp") + ";SET balance_method = round_robin")
    pbal = await lab.pbal(text)
    node, other = pbal.world.pool("app").nodes
    await until(lambda: node.check == other.check == "UP", "both to be up")
    assert await pbal.say(f"POOL app MAINT {second.address}") == "OK"
    one, two = await Client.of(pbal, request=get()), await Client.of(pbal, request=get())
    await until(lambda: node.active == 2, "two requests to run")
    assert await pbal.say(f"POOL app READY {second.address}") == "OK"
    assert await pbal.say(f"POOL app DRAIN {first.address} BECAUSE its disk is full") == "OK"
    found = await health(pbal, first.address)
    assert (found["state"], found["why"], found["by"], found["used"], found["active"]) == ("DRAIN", "its disk is full", "test", "no", 2)
    assert timeless(await pbal.say("show health")).startswith(f"app {first.address} DRAIN for Ns (test: its disk is full), 2 active")
    assert f"{first.address} 2 DRAIN 2" in await pbal.say("show pool app")
    assert '"state": "DRAIN"' in await pbal.say("nodes AS JSON")
    assert await asked(pbal, 10) == [200] * 10
    served = [taken for taken in first.connections if not taken.is_gone]
    for taken in served[:2]:
        await taken.request()
        taken.say(OK)
    assert [(await read_response(client.reader)).status for client in (one, two)] == [200, 200]
    assert "(DRAIN): no request is under way at it" in caplog.text
    assert node.active == 0
    idle = [backend for backend in pbal.world.backends if backend.node is node]
    assert idle, "drained, its connections may serve those that belong to it"
    assert await pbal.say(f"POOL app MAINT {first.address}") == "OK"
    await until(lambda: not [backend for backend in pbal.world.backends if backend.node is node], "its idle connections to close")
    await until(lambda: not node.active and node.check == "UNKNOWN", "its checks to be forgotten")
    checks = node.checks
    await until(lambda: other.checks > 5, "checks of the other")
    assert node.checks <= checks + 1, "one may have been under way"
    assert await pbal.say(f"POOL app DRAIN {second.address}") == "OK"
    response = await pbal.ask("web", get())
    assert (response.status, response.fields["retry-after"]) == (503, "1")
    assert "every node of pool app is drained or in maintenance" in await pbal.say("show errors 1")


@lab
async def test_up_and_down_are_said_on_the_console(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(3)]
    pbal = await lab.pbal(proxy(*(app.address for app in apps)))
    assert await pbal.say(f"POOL app DOWN {apps[0].address} BECAUSE it lies") == "OK"
    found = await health(pbal, apps[0].address)
    assert (found["state"], found["why"], found["by"], found["used"]) == ("DOWN", "it lies", "test", "no")
    assert await asked(pbal, 20) == [200] * 20
    assert apps[0].heads == []
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert (await health(pbal, apps[0].address))["state"] == "DOWN"
    assert await pbal.say(f"POOL app UP {apps[0].address}") == "OK"
    assert (await health(pbal, apps[0].address))["used"] == "yes"


@lab
async def test_orders_are_no_configuration_and_survive_its_reload(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(3)]
    pbal = await lab.pbal(proxy(*(app.address for app in apps)))
    assert await pbal.say(f"POOL app MAINT {apps[0].address} BECAUSE of fire") == "OK"
    assert "MAINT" not in await pbal.say("dumpconfig")
    assert await pbal.say("CONFIG DRIFT") == "."
    assert await pbal.say(f"POOL app REMOVE {apps[1].address}") == "OK"
    assert await pbal.say("SET app.balance_method = round_robin") == "OK"
    assert await pbal.say("RELOAD CONFIG") == "OK"
    found = await health(pbal, apps[0].address)
    assert (found["state"], found["why"], found["by"]) == ("MAINT", "of fire", "test")
    assert await asked(pbal, 20) == [200] * 20
    assert (apps[0].heads, len(apps[1].heads) > 0) == ([], True)
    assert await pbal.say(f"POOL app REMOVE {apps[0].address}") == "OK"
    assert await pbal.say(f"POOL app ADD {apps[0].address}") == "OK"
    assert (await health(pbal, apps[0].address))["state"] == "MAINT"
    assert "has no node" in await pbal.say("POOL app READY 127.0.0.1:1")
    assert await pbal.say(f"POOL app REMOVE {apps[0].address}") == "OK"
    file = lab.folder / pbal.server.interpreter.path.name
    file.write_text(file.read_text() + f"CREATE SERVICE m\nSET role = management\nSET listen = {apps[1].address}\nENABLE m\n")
    assert "nothing is changed" in await pbal.say("RELOAD CONFIG"), "the node had come by then, and the address is taken"
    assert await pbal.say(f"POOL app ADD {apps[0].address}") == "OK"
    assert (await health(pbal, apps[0].address))["state"] == "MAINT"


@lab
async def test_a_reason_is_text_in_the_log_whatever_it_says(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await lab.pbal(proxy("127.0.0.1:1", "127.0.0.1:2"))
    assert await pbal.say("POOL app DRAIN 127.0.0.1:1 BECAUSE 100% %(by)s %(nothing)s") == "OK"
    assert "node 127.0.0.1:1 is DRAIN because 100% %(by)s %(nothing)s, says test" in caplog.text
    assert await pbal.say("POOL app DOWN 127.0.0.1:2 BECAUSE 100%") == "OK"
    assert "node 127.0.0.1:2 is DOWN because 100%, says test" in caplog.text


def test_in_a_file_an_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.conf"
    path.write_text("CREATE POOL p\nPOOL p ADD 127.0.0.1:1\nPOOL p DRAIN 127.0.0.1:1\n")
    assert [mistake.message for mistake in Interpreter(World()).run_file(str(path))] == ["only on the console of a running pbal"]


@lab
async def test_explain_and_metrics_know_the_states(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(2)]
    pbal = await lab.pbal(proxy(*(app.address for app in apps)))
    assert await pbal.say(f"POOL app DRAIN {apps[0].address} BECAUSE of rain") == "OK"
    port = pbal.server.address("web")[1]
    told = timeless(await pbal.say(f"EXPLAIN GET http://h:{port}/"))
    assert "app: balance_method random, 1 of 2 nodes get requests" in told
    assert f"{apps[0].address} DRAIN for Ns (test: of rain), 0 active, 0 kept connections" in told
    assert f"{apps[1].address} UNTRIED, 0 active" in told
    shown = await pbal.say("show counters")
    assert f'node_state{{pool="app",node="{apps[0].address}",state="DRAIN"}} 1' in shown
    assert f'node_up{{pool="app",node="{apps[0].address}"}} 0' in shown
    assert f'node_up{{pool="app",node="{apps[1].address}"}} 1' in shown
    assert 'pool_usable{pool="app"} 1' in shown


@lab
async def test_after_an_ejection_a_check_tries_the_node_and_no_client(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(3)]
    ejecting = "SET eject_after = 1;SET eject_time = 10ms;SET check_fall = 1000;SET balance_method = round_robin"
    pbal = await lab.pbal(proxy(*(app.address for app in apps), pool=f"{CHECKED};{ejecting}", more="SET response_timeout = 1s"))
    hangs, node = apps[0], pbal.world.pool("app").nodes[0]
    await until(lambda: all(each.check == "UP" for each in pbal.world.pool("app").nodes), "good checks")
    hangs.silent = True
    checks = node.check_failures
    await until(lambda: node.check_failures > checks, "the node to hang")
    statuses = [(await pbal.ask("web", get("/x"))).status for _ in range(3)]
    assert sorted(statuses) == [200, 200, 504] and node.ejections == 1
    checks = node.check_failures
    await until(lambda: node.check_failures > checks, "the ejection to be over")
    assert [(await pbal.ask("web", get("/x"))).status for _ in range(9)] == [200] * 9
    assert hangs.got(b"/x") == 1, "nobody else had to find out"
    hangs.silent = False
    while hangs.got(b"/x") == 1:
        assert (await pbal.ask("web", get("/x"))).status == 200
    assert node.ejections == 1


@lab
async def test_readyz_tells_nodes_from_backup_nodes(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(4)]
    nodes = [f"{app.address}{' BACKUP' if number > 1 else ''}" for number, app in enumerate(apps)]
    more = "CREATE SERVICE console;SET role = management;SET listen = 127.0.0.1:0;ENABLE console;USE web"
    pbal = await lab.pbal(proxy(*nodes, more=more))

    async def said() -> bytes:
        return (await pbal.ask("console", READYZ)).body.removeprefix(b"ready\n").strip()

    assert await said() == b""
    for order, told in (
        (f"DRAIN {apps[3].address}", b"pool app: 1 of 2 backup nodes are well"),
        (f"DRAIN {apps[0].address}", b"pool app: 1 of 2 nodes get requests, 1 of 2 backup nodes are well"),
        (f"DRAIN {apps[1].address}", b"pool app: 0 of 2 nodes get requests, 1 of 2 backup nodes do"),
        (f"READY {apps[3].address}", b"pool app: 0 of 2 nodes get requests, 2 of 2 backup nodes do"),
        (f"ADD {apps[2].address} WEIGHT 0 BACKUP", b"pool app: 0 of 2 nodes get requests, 1 of 1 backup nodes do"),
        (f"READY {apps[1].address}", b"pool app: 1 of 2 nodes get requests"),
    ):
        assert await pbal.say(f"POOL app {order}") == "OK"
        assert await said() == told, order


@lab
async def test_a_log_line_about_a_node_names_service_and_pool(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async def garbage(taken: Taken) -> None:
        await taken.request()
        taken.say(b"rubbish\r\n\r\n")

    async def nothing(taken: Taken) -> None:
        await taken.request()
        taken.writer.close()

    bad, gone = await Scripted.start(lab, garbage), await Scripted.start(lab, nothing)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
        pbal = await lab.pbal(proxy())
        for node, event in ((closed, "connect_failed"), (bad.address, "bad_response"), (gone.address, "no_response")):
            assert await pbal.say(f"POOL app ADD {node}") == "OK"
            await pbal.ask("web", get())
            assert await pbal.say(f"POOL app REMOVE {node}") == "OK"
            said = next(record for record in caplog.records if isinstance(record.args, dict) and record.args.get("event") == event)
            assert f"service web: node {node} of pool app: " in said.getMessage()
            fields = said.args
            assert isinstance(fields, dict)
            assert (fields["service"], fields["pool"], fields["node"]) == ("web", "app", node)


@lab
async def test_readyz_and_the_page_tell_of_pools_that_are_not_whole(lab: Lab) -> None:
    apps = [await App.start(lab) for _ in range(3)]
    more = "CREATE SERVICE console;SET role = management;SET listen = 127.0.0.1:0;ENABLE console;USE web"
    pbal = await lab.pbal(proxy(*(app.address for app in apps), more=more))
    assert (await pbal.ask("console", READYZ)).body == b"ready\n"
    assert await pbal.say(f"POOL app DRAIN {apps[0].address}") == "OK"
    response = await pbal.ask("console", READYZ)
    assert (response.status, response.body) == (200, b"ready\npool app: 2 of 3 nodes get requests\n")
    assert b"pool app: 2 of 3 nodes get requests" in (await pbal.ask("console", READYZ.replace(b"readyz", b""))).body
    assert "app usable 2" in await pbal.say("show pool")
    for node in pbal.world.pool("app").nodes[1:]:
        node.checked(pbal.world.clock.now(), "a reason")
    assert await pbal.say(f"POOL app ADD {apps[0].address} BACKUP") == "OK"
    assert await pbal.say(f"POOL app READY {apps[0].address}") == "OK"
    assert f"{apps[0].address} UNTRIED for Ns, 0 active" in timeless(await pbal.say("show health")), "the others are down"
    for node in pbal.world.pool("app").nodes[1:]:
        node.unchecked()
    assert f"{apps[0].address} UNTRIED for Ns, backup, 0 active" in timeless(await pbal.say("show health"))
    assert await pbal.say(f"POOL app ADD {apps[0].address} WEIGHT 0") == "OK"
    assert f"{apps[0].address} UNTRIED for Ns, weight 0, 0 active" in timeless(await pbal.say("show health"))
    assert (await pbal.ask("console", READYZ)).body == b"ready\n"
    for node in pbal.world.pool("app").nodes[1:]:
        node.checked(pbal.world.clock.now(), "a reason")
    assert b"too few nodes are well" in (await pbal.ask("console", READYZ)).body
