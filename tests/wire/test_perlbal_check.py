"""A monitor written for Perlbal's console reads pbal's: the same lines, and the true numbers in them.

Monitoring of Perlbal polls `queues` and `socks`, and parses the shapes of Perlbal 1.80. The readers below were written from those shapes,
and know nothing of pbal. Each is strict: a line that it does not know fails the test.
"""

import asyncio
import contextlib
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from lab import DEADLINE, Lab, Pbal, lab, read_response, until

PERLBALS = """
    aio backends create default disable dumpconfig enable fd gladiator header help leaks load mime node nodes noverify obj pending plugins
    pool proc prof queues reload reproxy_state server set show shutdown socks state states track unload uptime use varsize verbose version
    xs crash
"""
"""The commands of Perlbal 1.80's console: what its `help` lists, and one that it does not list."""

CONF = """
    LOAD poll
    LOAD vhosts
    CREATE POOL app
      POOL app ADD {node}
    CREATE POOL slow
      POOL slow ADD {deaf}
    CREATE SERVICE chat
      SET role                     = reverse_proxy
      SET listen                   = 127.0.0.1:0
      SET pool                     = app
      SET plugins                  = poll
      SET poll_uri                 = ^/poll/(?P<queue>[^/]+)$
      SET trusted_upstream_proxies = 127.0.0.1
    ENABLE chat
    CREATE SERVICE late
      SET role            = reverse_proxy
      SET listen          = 127.0.0.1:0
      SET pool            = slow
      SET connect_timeout = 60s
      SET queue_timeout   = 60s
    ENABLE late
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 127.0.0.1:0
      SET plugins = vhosts
      VHOST *     = chat
    ENABLE front
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
"""


class Monitor:
    """What speaks to a Perlbal: a statement, and the lines until the dot."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def lines(self, statement: str) -> list[str]:
        self._writer.write(statement.encode() + b"\r\n")
        found: list[str] = []
        async with asyncio.timeout(DEADLINE):
            while (line := (await self._reader.readline()).decode()) != ".\r\n":
                assert line.endswith("\r\n") and not line.startswith("ERROR"), (statement, line)
                found.append(line[:-2])
        return found


async def monitor(pbal: Pbal) -> Monitor:
    return Monitor(*await pbal.connect("console"))


def _read(pattern: str, line: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, line)
    assert found, (pattern, line)
    return found.groups()


# -- the readers ---------------------------------------------------------------------------------------------------


def read_queues(lines: list[str]) -> dict[tuple[str, str], dict[str, int]]:
    """`SVC-QUEUE.age N` and `SVC-QUEUE.count N`."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for line in lines:
        service, queue, key, number = _read(r"(\w+)-(normal|highpri|lowpri)\.(age|count) (\d+)", line)
        found.setdefault((service, queue), {})[key] = int(number)
    return found


@dataclass
class Sock:
    """A line of `socks`."""

    fd: int
    age: int
    kind: str
    flags: str
    peer: str
    facts: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    """What is no `name=value`: the state, then perhaps an address of the Web."""


def read_socks(lines: list[str]) -> list[Sock]:
    """`%5d %5ds CLASS(FLAGS): open to IP:PORT: name=value; ...; STATE; ...`"""
    assert lines[0] == "   fd    age"
    found = []
    for line in lines[1:]:
        assert line[5] == " " and line[11:13] == "s ", line
        kind, flags, to, more = _read(r"(Perlbal::\w+)\((R?W?)\): open(?: to ([\d.]+:\d+))?(?:: (.*))?", line[13:])
        sock = Sock(int(line[:5]), int(line[6:11]), kind, flags, to or "")
        for part in (more or "").split("; "):
            name, sign, value = part.partition("=")
            if sign and name.isidentifier():
                sock.facts[name] = value
            else:
                sock.words.append(part)
        found.append(sock)
    assert [sock.fd for sock in found] == sorted({sock.fd for sock in found})
    return found


def read_states(lines: list[str]) -> Counter[tuple[str, str]]:
    """`CLASS STATE COUNT`."""
    rows = [_read(r"(Perlbal::\w+) (\w+) (\d+)", line) for line in lines]
    return Counter({(kind, state): int(number) for kind, state, number in rows})


def read_nodes(lines: list[str]) -> dict[str, dict[str, int]]:
    """`IP:PORT KEY VALUE` and `IP:PORT responsecodes CODE COUNT`."""
    found: dict[str, dict[str, int]] = {}
    for line in lines:
        node, key, number = _read(r"([\d.]+:\d+) ([a-z]+|responsecodes \d{3}) (\d+)", line)
        found.setdefault(node, {})[key] = int(number)
    return found


def read_pairs(pattern: str, lines: list[str]) -> dict[str, int]:
    """A name and a number a line."""
    return {name: int(number) for name, number in (_read(pattern, line) for line in lines)}


def read_proc(lines: list[str]) -> dict[str, tuple[float, float | None]]:
    """`NAME: VALUE` or `NAME: VALUE (+DELTA)`."""
    found: dict[str, tuple[float, float | None]] = {}
    for line in lines:
        name, value, _, delta = _read(r"(\w+): ([\d.]+)( \(\+([\d.]+)\))?", line)
        found[name] = float(value), None if delta is None else float(delta)
    return found


# -- what they read ------------------------------------------------------------------------------------------------


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A node that answers what ends in a status, and nothing else."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ")[1][1:]
        if status.isdigit():
            writer.write(b"HTTP/1.1 %b Said\r\nContent-Length: 0\r\n\r\n" % status)


@contextlib.asynccontextmanager
async def scene(lab: Lab) -> AsyncIterator[tuple[Pbal, Monitor, str, str]]:
    """A pbal with a node that answers, and one whose kernel takes no more connections."""
    origin = await lab.origin(app)
    with socket.socket() as deaf, contextlib.ExitStack() as filling:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            one = filling.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        address = "{}:{}".format(*deaf.getsockname())
        pbal = await lab.pbal(CONF.format(node=origin.address, deaf=address))
        yield pbal, await monitor(pbal), origin.address, address


async def ask(pbal: Pbal, service: str, path: str, more: str = "") -> str:
    """Send a request whose answer is not awaited; our end of the connection."""
    _, writer = await pbal.connect(service)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: c.example\r\n{more}\r\n".encode())
    return "{}:{}".format(*writer.get_extra_info("sockname"))


@lab
async def test_the_monitor_reads_who_waits_and_on_what(lab: Lab) -> None:
    async with scene(lab) as (pbal, here, node, deaf):
        late = [await ask(pbal, "late", f"/{number}") for number in range(3)]
        held = await ask(pbal, "chat", "/hold?a=b", "X-Forwarded-For: 10.1.2.3\r\n")
        parked = await ask(pbal, "chat", "/poll/alice")
        selected = await ask(pbal, "front", "/hold2")
        handler = pbal.world.service("late").handler
        await until(lambda: handler.load()[0] == 3 and len(pbal.world.backends) == 2, "all to be there")  # type: ignore[union-attr]
        await pbal.until("poll_parked", 1)

        queues = read_queues(await here.lines("queues"))
        assert {key: facts["count"] for key, facts in queues.items() if facts["count"]} == {("late", "normal"): 3}
        assert len(queues) == 6 and all(facts["age"] < 10 for facts in queues.values())

        socks = {sock.peer: sock for sock in read_socks(await here.lines("socks"))}
        for peer in late:
            sock = socks[peer]
            assert (sock.kind, sock.words[0], sock.facts["reqs"]) == ("Perlbal::ClientProxy", "wait_backend", "1")
            assert "backend" not in sock.facts
        sock = socks[held]
        assert (sock.kind, sock.flags, sock.words) == ("Perlbal::ClientProxy", "R", ["wait_res", "http://c.example/hold?a=b"])
        assert sock.facts == {
            "localport": str(pbal.server.address("chat")[1]), "observed_ip": "10.1.2.3", "reqs": "1", "backend": node,
        }  # fmt: skip
        assert (socks[parked].kind, socks[parked].words) == ("Perlbal::ClientProxy", ["parked"])
        assert socks[selected].facts["backend"] == node and socks[selected].words == ["wait_res", "http://c.example/hold2"]
        serving = [one for one in read_socks(await here.lines("socks")) if one.kind == "Perlbal::BackendHTTP"]
        assert {int(one.facts["client"]) for one in serving} == {socks[held].fd, socks[selected].fd}
        assert {(one.peer, one.facts["uses"], one.words[0]) for one in serving} == {(node, "0", "wait_res")}

        states = read_states(await here.lines("states"))
        told = Counter((one.kind, one.words[0]) for one in read_socks(await here.lines("socks")) if "TCPListener" not in one.kind)
        opening = Counter({("Perlbal::BackendHTTP", "connecting"): handler.load()[1]})  # type: ignore[union-attr]
        assert states - Counter({("Perlbal::TCPListener", "listening"): 4}) == told + opening
        assert read_states(await here.lines("states late"))["Perlbal::ClientProxy", "wait_backend"] == 3

        pending = [_read(r"(\w+) ([\d.]+:\d+) (\d+)", line) for line in await here.lines("pending")]
        assert [one[:2] for one in pending] == [("late", deaf)] * 3
        block = await here.lines("show service late")
        assert block[3:5] == ["  pend clients: 3", "  pend backend: 3"]
        assert all(re.fullmatch(rf"   {deaf} - connecting - \d+s", line) for line in block[5:8])
        assert block[8] == " connect-ahead: 0/0"
        assert read_pairs(r"([\d.]+:\d+) (\d+)", await here.lines("backends")) == {node: 2, deaf: 3}

        *classes, buffer, files = await here.lines("socks summary")
        numbers = Counter({name: int(number) for number, name in (_read(r" +(\d+) (Perlbal::\w+)", line) for line in classes)})
        assert numbers == Counter(one.kind for one in read_socks(await here.lines("socks")))
        _read(r"Aggregate write buffer: \d+\.\dk", buffer)
        (opened,) = _read(r"            Open files: (\d+)", files)
        limits = read_pairs(r"(max|cur) (\d+)", await here.lines("fd"))
        assert int(opened) == limits["cur"] >= numbers.total() and limits["max"] > limits["cur"]


@lab
async def test_the_monitor_reads_what_nodes_did(lab: Lab) -> None:
    async with scene(lab) as (pbal, here, node, _):
        before = read_proc(await here.lines("proc"))
        reader, writer = await pbal.connect("chat")
        wanted = [404] * 7 + [500] * 2 + [200] * 498
        for status in wanted:
            writer.write(f"GET /{status} HTTP/1.1\r\nHost: c\r\n\r\n".encode())
            assert (await read_response(reader)).status == status
        known = read_nodes(await here.lines("nodes"))[node]
        assert read_nodes(await here.lines(f"node {node}")) == {node: known}
        assert (known["attempts"], known["connects"], known["verifies"], known["requests"]) == (1, 1, 0, len(wanted))
        assert abs(known["lastresponse"] - pbal.world.clock.epoch()) < 60 and known["lastattempt"] <= known["lastconnect"]
        codes = {key: number for key, number in known.items() if key.startswith("responsecodes")}
        assert codes == {"responsecodes 200": 498, "responsecodes 500": 2}, "the last 500 responses"
        assert await here.lines("nodes 10.9.9.9") == []

        after = read_proc(await (await monitor(pbal)).lines("proc"))
        assert after["reqs"] == (before["reqs"][0] + len(wanted), len(wanted)), "since the last proc, of whichever console"
        for key in ("utime", "stime"):
            value, grown = after[key]
            assert grown is not None and abs(value - before[key][0] - grown) < 1e-5
        assert after["time"][1] is after["pid"][1] is None
        assert read_pairs(r"([\d.]+:\d+) (\d+)", await here.lines("show pool app")) == {node: len(wanted)}
        assert read_pairs(r"(\w+ (?:nodes|services|usable)) (\d+)", await here.lines("show pool")) == {
            "app nodes": 1, "app services": 1, "app usable": 1, "slow nodes": 1, "slow services": 1, "slow usable": 1,
        }  # fmt: skip
        uptime = dict(line.split(" ") for line in await here.lines("uptime"))
        assert abs(int(uptime["starttime"]) + int(uptime["uptime"]) - pbal.world.clock.epoch()) < 3 and "version" in uptime


@lab
async def test_each_command_of_perlbal_is_known(lab: Lab) -> None:
    async with scene(lab) as (pbal, here, _, _):
        language = pbal.server.interpreter.language
        known = {usage.split()[0].lower() for rule in language.rules for usage in language.syntax(rule).split(" | ")}
        assert [word for word in PERLBALS.split() if word not in known] == []
        for silent in ("noverify", "aio", "obj", "track", "gladiator", "state changes"):
            assert await here.lines(silent) == []
        assert await here.lines("reproxy_state") == ["SERVER max_reproxy_connections = 0"]
        assert await here.lines("plugins") == ["chat poll", "front vhosts"]
        mime = dict(line.split(" ") for line in await here.lines("mime list"))
        assert mime["css"] == "text/css" and list(mime) == sorted(mime) and await here.lines("mime") == await here.lines("mime list")
        said = await here.lines("mime set zz a/b\r\nmime remove zz\r\naio")
        assert said == ["zz set to a/b.", "zz removed."], "in place of OK"
        modules = await here.lines("xs")
        assert modules[:3] == ["XS module status:", "", "   No modules available."]
        sizes = read_pairs(r"([\w-]+ (?:\[\]|\{\})) (\d+)", await here.lines("varsize"))
        assert sizes["svc-late-bored_backends []"] == 0 and sizes["clients {}"] == 1


@lab
async def test_prof_measures_where_the_time_goes(lab: Lab) -> None:
    async with scene(lab) as (pbal, here, _, _):
        assert await here.lines("prof data") == []
        assert await pbal.say("prof on") == "OK"
        assert (await pbal.ask("chat", b"GET /204 HTTP/1.1\r\nHost: c\r\n\r\n")).status == 204
        assert await pbal.say("prof off") == "OK"
        measured = {}
        for line in await here.lines("prof data"):
            key, seconds, stime, calls, each, stime_each = line.split(" ")
            measured[key] = int(calls)
            assert abs(float(seconds) / int(calls) - float(each)) < 1e-5 and stime == stime_each == "0"
        assert len(measured) > 20
        assert await here.lines("prof data") == await here.lines("prof data"), "it has stopped"


@lab
async def test_crash_ends_the_process_as_a_fault_would(lab: Lab) -> None:
    async with scene(lab) as (pbal, _, _, _):
        assert await pbal.say("SET console.readonly = on") == "OK"
        reader, writer = await pbal.connect("console")
        writer.write(b"crash\nprof on\n")
        assert (await reader.readline()).startswith(b"ERROR: ") and (await reader.readline()).startswith(b"ERROR: ")
        assert pbal.server.exit_status == 0 and not pbal.server.ending
        assert await pbal.say("SET console.readonly = off") == "OK"
        writer.write(b"crash\n")
        await reader.read()
        assert pbal.server.exit_status == 1 and pbal.server.ending
