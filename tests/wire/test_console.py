"""The management console at length: packets cut anywhere, strangers, slow and vanished readers, every query twice, live changes."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until

from pbal import __version__
from pbal.api import ManualClock
from pbal.commands.interpreter import Interpreter
from pbal.console import connection
from pbal.console.connection import ConsoleConnection
from pbal.lang.parser import Language, bundled_fragments
from pbal.model.world import World
from pbal.net.tasks import running

CONF = """
    LOAD poll
    LOAD vhosts
    LOAD stats
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE chat
      SET role             = reverse_proxy
      SET listen           = 127.0.0.1:0
      SET pool             = app
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
    ENABLE chat
    CREATE SERVICE files
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = .
    ENABLE files
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET default_service = files
    ENABLE front
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
"""
QUIET = CONF.format(node="127.0.0.1:1")


class Console:
    """A console held open: a statement, the lines of its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def line(self) -> str:
        async with asyncio.timeout(DEADLINE):
            line = (await self.reader.readline()).decode()
        assert line.endswith("\r\n"), line
        return line[:-2]

    async def ask(self, statement: str) -> list[str]:
        """The answer, without the dot that ends a list."""
        self.writer.write(statement.encode() + b"\n")
        lines = [await self.line()]
        while lines[-1] not in (".", "OK") and not lines[0].startswith("ERROR: "):
            lines.append(await self.line())
        return lines[:-1] if lines[-1] == "." else lines


async def console(pbal: Pbal) -> Console:
    return Console(*await pbal.connect("console"))


async def talk(pbal: Pbal, *packets: bytes) -> list[str]:
    """Send packets, each read before the next is sent, end our side; every line until theirs ends."""
    reader, writer = await pbal.connect("console")
    writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for packet in packets:
        before = OCTETS[0]
        writer.write(packet)
        await until(lambda: OCTETS[0] == before + len(packet), "the packet to be read")  # noqa: B023 - awaited before the next turn
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        data: bytes = await reader.read()
    assert not data or data.endswith(b"\r\n")
    return data.decode("utf-8", "backslashreplace").split("\r\n")[:-1]


def stop_ticks(pbal: Pbal) -> None:
    """Nothing that comes once a second comes any more."""
    pbal.server.ticks.stop()


OCTETS = [0]
"""Octets that consoles were handed."""


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count them."""
    taken = ConsoleConnection.data_received

    def data_received(self: ConsoleConnection, data: bytes) -> None:
        OCTETS[0] += len(data)
        taken(self, data)

    monkeypatch.setattr(ConsoleConnection, "data_received", data_received)


def consoles(pbal: Pbal) -> list[ConsoleConnection]:
    return [thing for thing in pbal.world.clients if isinstance(thing, ConsoleConnection)]


def reset(writer: asyncio.StreamWriter) -> None:
    """Vanish: the other side gets a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Kept(logging.Handler):
    """What was logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# -- lines ---------------------------------------------------------------------------------------------------------


@lab
async def test_a_session_may_be_cut_anywhere(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    session = (
        b"\r\n# a note\r\n  \t \nUSE app\r\nSET balance_method = round_robin   # why\n"
        b"no\xff\xfd\x06nsense \xc3\xa4\r\nshow\xff\xfa\x1f\x00\x0a\x00\x18\xff\xf0 pool\r\n"
        b"not this\xff\xf3\xff\xf1!\nqueues AS JSON\nverbose off\nUSE files\n\n\nshow service"
    )
    answers = await talk(pbal, session)
    assert answers[:4] == ["OK", "OK", "ERROR: 'nonsense' is not a statement: help lists the statements", "app nodes 1"]
    assert answers[7:9] == ["ERROR: 'not' is not a statement: help lists the statements", "["]
    assert (answers[-1], answers.count("OK"), answers.count(".")) == (".", 2, 3)
    for cut in range(1, len(session)):
        assert await talk(pbal, session[:cut], session[cut:]) == answers, session[:cut]
    assert await talk(pbal, *(session[place : place + 1] for place in range(len(session)))) == answers


@lab
async def test_what_says_nothing_is_answered_by_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    assert await talk(pbal, b"") == []
    assert await talk(pbal, b"\n\r\n# x\n \t # y\n\t\n   ") == []
    assert await talk(pbal, b"#" + b"x" * (connection.LONGEST_LINE - 1) + b"\nUSE app\n") == ["OK"]
    assert pbal.counts["console_commands"] == 1


@lab
async def test_keys_of_telnet(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    reader, writer = await pbal.connect("console")
    writer.write(b"SHUTDOWN\xff\xf4\xff\xfd\x06USE app\n")  # Control-C: interrupt, and an option telnet waits for to be answered
    assert await reader.readline() == b"\xff\xfc\x06OK\r\n"
    writer.write(b"SHUTDOWN\x03USE app\n")
    assert await reader.readline() == b"OK\r\n"
    for end in (b"\x04", b"\xff\xec"):  # Control-D
        reader, writer = await pbal.connect("console")
        writer.write(b"USE app\n" + end)
        assert await reader.read() == b"OK\r\n"
        assert await talk(pbal, b"USE app\n" + end + b"USE nothing\n") == ["OK"]
    assert await talk(pbal, "\ufeffUSE app\n".encode()) == ["OK"], "a file with a mark at its beginning"


NO_TEXT = [
    b"up\x00time",
    b"\x01",
    b"uptime\x07",
    b"\x1b[A",
    b"\x7f",
    b"show service \x85",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xf8\x88\x80\x80\x80",
    b"up\xff",
    b"\xfe\xff",
    "show service \u202eflies".encode(),
    b"uptime\ruptime",
    b"up\xff\xfb\x01\xfftime",
]


@lab
async def test_octets_that_are_no_text_are_refused_in_one_clean_line(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    before = await pbal.say("dumpconfig")
    for line in NO_TEXT:
        answers = await talk(pbal, b"USE app\n" + line + b"\nUSE app\n")
        assert len(answers) == 3 and answers[0] == answers[2] == "OK", answers
        assert answers[1].startswith("ERROR: ") and answers[1].isprintable(), answers
    assert await pbal.say("dumpconfig") == before


@lab
async def test_a_line_too_long_ends_the_console_however_it_comes(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    reader, writer = await pbal.connect("console")
    writer.write(b"x" * 2 * connection.LONGEST_LINE)
    assert await reader.readline() == b"ERROR: a line is longer than 65536 bytes\r\n", "at once, before it ends"
    for ending in (b"", b"\n", b"\r\nSET files.max_body = 2\n"):
        long = b"x" * (connection.LONGEST_LINE + 1)
        wanted = ["OK", "ERROR: a line is longer than 65536 bytes"]
        said = b"SET files.max_body = 1\n"
        assert await talk(pbal, said + long + ending) == wanted
        assert await talk(pbal, said + long[:40000], long[40000:] + ending) == wanted
        assert await talk(pbal, said, "ä".encode() * 40000 + ending) == wanted, "octets count, not characters"
        assert await talk(pbal, said + long, b"\nSET files.max_body = 3\n") == wanted
        assert pbal.world.service("files")["max_body"] == 1
        assert len(await talk(pbal, long[:-1] + ending)) == (2 if b"SET" in ending else 1), "that long is only no statement"


@lab
async def test_everything_pipelined_is_answered_in_order_after_an_end(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    number = 2 * connection.MOST_WAITING
    lines = [b"USE app\nSET files max_body = %d\nshow pool\nxyzzy%d\n" % (n, n) for n in range(1, number // 4)]
    answers = await talk(pbal, b"".join(lines)[:-1])
    block = ["OK", "OK", "app nodes 1", "app services 1", "app usable 1", "."]
    wanted = [line for n in range(1, number // 4) for line in (*block, f"ERROR: 'xyzzy{n}' is not a statement: help lists the statements")]
    assert answers == wanted
    assert pbal.world.service("files")["max_body"] == number // 4 - 1
    assert await talk(pbal, b"USE app\n" * (3 * connection.MOST_WAITING)) == ["OK"] * (3 * connection.MOST_WAITING)


@lab
async def test_quit_closes_and_what_follows_is_not_carried_out(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    for word in (b"quit", b"QUIT", b"exit", b"  Exit  # home"):
        reader, writer = await pbal.connect("console")
        writer.write(b"USE app\n" + word + b"\nSET files max_body = 1\n")
        assert await reader.read() == b"OK\r\n"
    assert pbal.world.service("files")["max_body"] != 1


@lab
async def test_verbose_is_a_consoles_own(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    first, second = await console(pbal), await console(pbal)
    first.writer.write(b"VERBOSE off\nUSE app\ndumpconfig\nnope\n")
    assert await first.line() == "LOAD poll", "no OK before it, and a blank line only between blocks"
    while (line := await first.line()) != "ENABLE console":
        assert line != "OK"
    assert (await first.line()).startswith("ERROR: ")
    assert await second.ask("USE app") == ["OK"]
    assert (await second.ask("dumpconfig"))[-1] == "OK"


# -- strangers -----------------------------------------------------------------------------------------------------

EVIL = b"SET files.max_body = 1\nPOOL app REMOVE 127.0.0.1:1\nSHUTDOWN\n"


STRANGERS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    b"\x00\x03\x00\x24\x21\x12\xa4\x42\n",
]


@lab
async def test_who_speaks_no_lines_carries_out_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    kept = Kept(logging.WARNING)
    logging.getLogger("pbal").addHandler(kept)
    for head in STRANGERS:
        for packets in ([head + EVIL], [head, EVIL], [head[:1], head[1:], EVIL, EVIL], [head + EVIL[:5], EVIL[5:]]):
            answers = await talk(pbal, *packets)
            assert len(answers) == 1 and answers[0].startswith("ERROR: this is a line console, it does not speak "), answers
    logging.getLogger("pbal").removeHandler(kept)
    assert pbal.counts["console_commands"] == 0
    assert (await talk(pbal, b"show pool app\n"))[0] == "127.0.0.1:1 0"
    assert pbal.world.service("files")["max_body"] != 1
    assert sum("refused" in message for message in kept.messages) == 1, "once in ten seconds is enough"


@lab
async def test_who_is_refused_and_stays_is_closed(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    reader, writer = await pbal.connect("console")
    writer.write(STRANGERS[0])
    assert (await reader.readline()).startswith(b"ERROR: ")
    (refused,) = consoles(pbal)
    assert refused.state == "lingering" and refused.deadline <= pbal.world.clock.now() + connection.LINGER_SECONDS
    assert "Perlbal::ClientManage lingering 1" in await pbal.say("states")
    refused.deadline = 0.0
    stop_ticks(pbal)
    pbal.server.ticks.now()  # which comes once a second by itself
    await until(lambda: not consoles(pbal), "it to be closed")
    assert (await talk(pbal, b"poll publish chat lobby GET / HTTP/1.1\nUSE app\n"))[1:] == ["OK", "OK"], "only the first line counts"


# -- readers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What consoles write at a time."""
    pieces: list[list[str]] = []
    write = ConsoleConnection._write

    def _write(self: ConsoleConnection, lines: list[str]) -> None:
        pieces.append(list(lines))
        write(self, lines)

    monkeypatch.setattr(ConsoleConnection, "_write", _write)
    return pieces


async def crowd(pbal: Pbal, number: int) -> list[asyncio.StreamWriter]:
    """Connections that say nothing."""
    writers = [(await pbal.connect("files"))[1] for _ in range(number)]
    await until(lambda: len(pbal.world.clients) >= number, "the crowd")
    return writers


def test_long_lists_are_written_in_pieces(written):
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(QUIET)
        await crowd(pbal, 450)
        answers = await talk(pbal, b"socks all\n")
        assert len(answers) == 1 + 4 + 450 + 1 + 1
        assert [len(piece) for piece in written if piece] == [100, 100, 100, 100, 57]
        assert answers[0] == "   fd    age" and answers[-1] == "."
        descriptors = [int(line.split()[0]) for line in answers[1:-1]]
        assert descriptors == sorted(set(descriptors))
        written.clear()
        for _ in range(8):
            assert (
                await pbal.ask("chat", b"POST /publish/q HTTP/1.1\r\nHost: c\r\nContent-Length: 30000\r\n\r\n" + b"y" * 30000)
            ).status == 202
        assert len(await talk(pbal, b"show queue chat q\n")) == 10
        assert max(sum(map(len, piece)) for piece in written) < connection.PIECE_OCTETS + 31000

    run()


async def unread(pbal: Pbal) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, ConsoleConnection]:
    """The only console, whose client does not read, with little room in the kernel; and its other end."""
    reader, writer = await pbal.connect("console")
    transport_of(writer).pause_reading()
    (stalled,) = await until(lambda: consoles(pbal), "the console")
    for transport, option in ((writer.transport, socket.SO_RCVBUF), (stalled.transport, socket.SO_SNDBUF)):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 65536)
    return reader, writer, stalled


@pytest.mark.parametrize(
    ("statement", "number", "ends"),
    [
        ("socks all", 100, "."),
        ("help\nverbose on", 500, "OK"),
        ("show queue chat q", 2, "."),
        ("show tunables", 250, "."),
        ("z" * 20000, 60, f"ERROR: '{'z' * 20000}' is not a statement: help lists the statements"),
    ],
    ids=["socks", "help", "queue", "tunables", "errors"],
)
def test_a_reader_that_stops_costs_a_bounded_buffer_and_gets_all_when_it_goes_on(statement, number, ends):
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(QUIET)
        await crowd(pbal, 100)
        body = b"y" * 30000
        for _ in range(30):
            published = b"POST /publish/q HTTP/1.1\r\nHost: c\r\nContent-Length: 30000\r\n\r\n" + body
            assert (await pbal.ask("chat", published)).status == 202
        reader, writer, stalled = await unread(pbal)
        writer.write(f"{statement}\n".encode() * number)
        writer.write_eof()
        await until(lambda: not stalled._room.is_set(), "its buffer to be full")
        other = await console(pbal)
        for _ in range(20):
            assert len(await other.ask("uptime")) == 4
        assert stalled.transport.get_write_buffer_size() < 3 * connection.PIECE_OCTETS
        transport_of(writer).resume_reading()
        async with asyncio.timeout(DEADLINE):
            answers = (await reader.read()).decode().split("\r\n")
        assert answers.count(ends) == number

    run()


@lab
async def test_who_vanishes_in_a_long_list_leaves_nothing_behind(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    kept = Kept(logging.ERROR)
    logging.getLogger("pbal").addHandler(kept)
    try:
        held = await crowd(pbal, 450)
        for abandon in (reset, lambda writer: writer.close()):
            _, writer, stalled = await unread(pbal)
            writer.write(b"socks all\nhelp\nshow tunables\n" * 40)
            await until(lambda: not stalled._room.is_set(), "its buffer to be full")  # noqa: B023 - awaited before the next turn
            abandon(writer)
            await until(lambda: not consoles(pbal) and "console" not in running(), "it to be gone")
        reader, writer, stalled = await unread(pbal)
        writer.write(b"socks all\n" * 50)
        await until(lambda: not stalled._room.is_set(), "its buffer to be full")
        for other in held:
            reset(other)
        await until(lambda: len(pbal.world.clients) == 1, "the crowd to be gone")
        transport_of(writer).resume_reading()
        writer.write(b"quit\n")
        async with asyncio.timeout(DEADLINE):
            answers = (await reader.read()).decode().split("\r\n")
        assert answers.count(".") == 50
        assert not [line for line in answers if line.startswith("ERROR")]
        assert answers[-3].split()[2].startswith("Perlbal::ClientManage")
    finally:
        logging.getLogger("pbal").removeHandler(kept)
    assert kept.messages == []


@lab
async def test_what_arrived_is_carried_out_whole_though_nobody_reads_the_answer(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    for number in range(3):
        _, writer = await pbal.connect("console")
        before = OCTETS[0]
        statements = b"LOAD vpaths\nUSE files\nSET max_body = %d\n" % (number + 1)
        writer.write(statements)
        await until(lambda: OCTETS[0] == before + len(statements), "it to be read")  # noqa: B023 - awaited before the next turn
        reset(writer)
        await until(lambda: pbal.world.service("files")["max_body"] == number + 1, "the last to be carried out")  # noqa: B023 - awaited before the next turn
        assert (
            await talk(pbal, b"SET front.plugins = vpaths\nVPATH front ^/x = chat\nSET front.plugins = none\nUNLOAD vpaths\n") == ["OK"] * 4
        )


@lab
async def test_two_consoles_have_a_current_object_each(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    first, second = await console(pbal), await console(pbal)
    assert (await second.ask("SET max_body = 1"))[0].startswith("ERROR: omitted service/pool name not implied from context")
    assert await first.ask("CREATE SERVICE extra") == ["OK"]
    assert (await second.ask("SET max_body = 1"))[0].startswith("ERROR: omitted")
    assert await second.ask("USE files") == ["OK"]
    assert await first.ask("SET role = web_server") == ["OK"]
    assert await second.ask("SET max_body = 2") == ["OK"]
    assert await first.ask("SET max_body = 3") == ["OK"]
    assert (await first.ask("USE nothing"))[0].startswith("ERROR: ")
    assert (await first.ask("SET max_body = 4"))[0].startswith("ERROR: omitted"), "after a USE that failed there is none"
    assert [pbal.world.service(name)["max_body"] for name in ("extra", "files", "chat")] == [3, 2, 200 << 20]
    assert await second.ask("POOL app ADD 10.0.0.1") == ["OK"]
    assert await second.ask("SET max_body = 5") == ["OK"], "POOL does not make its pool the current object"
    assert pbal.world.service("files")["max_body"] == 5


# -- queries -------------------------------------------------------------------------------------------------------


Json = Any
"""What json.loads gave."""


def joined(rows: Json) -> list[str]:
    return [" ".join(map(str, row.values())) for row in rows]


def each(line: Callable[[Json], str]) -> Callable[[Json], list[str]]:
    """A line for each object of an array."""
    return lambda rows: [line(row) for row in rows]


def members(facts: Json) -> list[str]:
    return [f"{name} {value}" for name, value in facts.items()]


def parked(row: Json) -> str:
    queues = ",".join(row["queues"])
    return f"{row['id']} {row['service']} {queues} {row['client']} {row['age']}s {row['left']}s {row['looks']} {row['transport']}"


def block(facts: Json) -> list[str]:
    """The block of a service, in Perlbal's widths."""
    lines = [f"SERVICE {facts['name']}", f"     listening: {facts['listen'] or '--'}", f"          role: {facts['role']}"]
    if "pending_clients" in facts:
        lines += [f"  pend clients: {facts['pending_clients']}", f"  pend backend: {len(facts['pending_backends'])}"]
        lines += [f"   {each['node']} - {each['state']} - {each['age']}s" for each in facts["pending_backends"]]
    if "bored" in facts:
        lines.append(f" connect-ahead: {facts['bored']}/{facts['connect_ahead']}")
    if "pool" in facts:
        lines += [f"          pool: {facts['pool']}", "         nodes:"]
        unwell = ["" if node["state"] in ("UP", "UNTRIED") else f" {node['state']}" for node in facts["nodes"]]
        lines += [f"{'':16}{node['node']:<21} {node['requests']:>7}{end}" for node, end in zip(facts["nodes"], unwell, strict=True)]
    lines += [f"        docroot: {facts['docroot']}"] if "docroot" in facts else []
    lines += [f"         bored: {facts['bored']}"] if "bored" in facts else []
    lines += [f"       plugins: {' '.join(facts['plugins'])}"] if "plugins" in facts else []
    lines += [f"          rule: {rule}" for rule in facts.get("rules", ())]
    return lines + [f"           set: {name} = {text}" for name, text in facts["set"].items()]


def node(row: Json) -> str:
    return f"{row['node']} {row['requests']}" + ("" if row["state"] in ("UP", "UNTRIED") else f" {row['state']} {row['active']}")


def known(rows: Json) -> list[str]:
    """What is known of nodes."""
    lines = []
    for row in rows:
        facts = {key: value for key, value in row.items() if key not in ("node", "pools", "responsecodes", "state") and value is not None}
        lines += [f"{row['node']} {key} {value}" for key, value in facts.items()]
        lines += [f"{row['node']} responsecodes {code} {number}" for code, number in row["responsecodes"].items()]
    return lines


def tunable(row: Json) -> str:
    said = "changed" if row["changed"] else "default"
    return f"{row['tunable']} {row['text'] or '-'} {row['default'] or '-'} {said} {row['summary']}"


def sock(row: Json) -> str:
    """Perlbal's line of a socket."""
    fields = dict(row)
    fd, age, name, flags, state, service, peer = (fields.pop(key) for key in ("fd", "age", "class", "flags", "state", "service", "peer"))
    if "listening" in fields:
        return f"{fd:5d} {age:5d}s {name}({flags}): open: listening on {fields['listening']} for service '{service}'"
    before = [f"{key}={fields.pop(key)}" for key in ("localport", "observed_ip", "client", "reqs", "uses") if key in fields]
    after = [value if key == "url" else f"{key}={value}" for key, value in fields.items()]
    return f"{fd:5d} {age:5d}s {name}({flags}): open to {peer}: {'; '.join([*before, state, *after])}"


def summary(facts: Json) -> list[str]:
    lines = [f"{number:5d} {name}" for name, number in facts["classes"].items()]
    return [*lines, f"Aggregate write buffer: {facts['write_buffer'] / 1024:.1f}k", f"            Open files: {facts['open_files']}"]


def waiting(rows: Json) -> list[str]:
    return [
        f"{row['service']}-{queue}.{key} {row[queue][key]}"
        for row in rows
        for queue in ("normal", "highpri", "lowpri")
        for key in ("age", "count")
    ]


def figures(facts: Json) -> list[str]:
    delta = facts.pop("delta")
    grown = {name: f" (+{value:.6f})" if isinstance(value, float) else f" (+{value})" for name, value in delta.items()}
    return [f"{name}: {value}{grown.get(name, '')}" for name, value in facts.items()]


def loaded(rows: Json) -> list[str]:
    lines = []
    for row in rows:
        services = ",".join(row["services"]) or "-"
        first = f"loaded {row['plugin']} version {row['version'] or '-'} generation {row['generation']} errors {row['errors']}"
        lines.append(f"{first} services {services} {row['path']}")
        for hook in row["hooks"]:
            lines.append(f"hook {row['plugin']} {hook['hook']} calls {hook['calls']} ms {hook['ms']} slowest {hook['slowest_ms']}")
    return lines


def empty(answer: Json) -> list[str]:
    assert answer in ([], {"modules": []})
    return []


SHAPES: dict[str, tuple[Callable[[Json], list[str]], int]] = {
    # A query: how its JSON reads as text, and how many lines stand before that.
    "show service": (each(lambda r: f"{r['name']} {r['listen'] or 'not_listening'} {r['state']}"), 0),
    "show service chat": (block, 0),
    "show service files": (block, 0),
    "show service front": (block, 0),
    "show service later": (block, 0),
    "show pool": (lambda rows: [f"{r['pool']} {key} {r[key]}" for r in rows for key in ("nodes", "services", "usable")], 0),
    "show pool app": (each(node), 0),
    "show plugins": (loaded, 1),
    "plugins": (each(lambda r: f"{r['service']} {' '.join(r['plugins'])}"), 0),
    "show counters": (members, 0),
    "show counters LIKE backend_*": (members, 0),
    "show counters LIKE nothing*": (members, 0),
    "show tunables": (each(tunable), 0),
    "show tunables files": (each(tunable), 0),
    "show tunables chat CHANGED": (each(tunable), 0),
    "show parked": (each(parked), 0),
    "show parked chat LIKE b* LIMIT 1": (each(parked), 0),
    "show parked summary": (each(lambda r: f"{r['service']} parked {r['parked']} queues {r['queues']} oldest {r['oldest']}s"), 0),
    "show queue chat full": (each(lambda r: f"{r['number']} {r['message']!r}"), 1),
    "show queue chat empty": (each(lambda r: f"{r['number']} {r['message']!r}"), 1),
    "show store": (each(lambda r: f"{r['service']} {r['store']} {r['state']} {r['detail']}"), 0),
    "show presence": (each(lambda r: f"{r['service']} {r['queue']} {r['readers']} {r['leaves'] or '-'}"), 0),
    "show certificates": (joined, 0),
    "states": (joined, 0),
    "states chat": (joined, 0),
    "state changes": (empty, 0),
    "socks": (each(sock), 1),
    "socks all": (each(sock), 1),
    "socks summary": (summary, 0),
    "nodes": (known, 0),
    "nodes 127.0.0.1:1": (known, 0),
    "node 127.0.0.1": (known, 0),
    "backends": (joined, 0),
    "pending": (joined, 0),
    "noverify": (empty, 0),
    "queues": (waiting, 0),
    "uptime": (members, 0),
    "version": (members, 0),
    "proc": (figures, 0),
    "fd": (members, 0),
    "reproxy_state": (empty, 1),
    "aio": (empty, 0),
    "mime": (joined, 0),
    "xs": (empty, 6),
    "obj": (empty, 0),
    "track": (empty, 0),
    "gladiator": (empty, 0),
    "stats": (each(lambda r: f"{r['service']:<15} {r['key']:<25} {r['value']:>12}"), 0),
    "recent": (empty, 0),
    "varsize": (joined, 0),
    "prof data": (joined, 0),
}
MOVES = ("console_commands", "resident_bytes", "utime: ", "stime: ", "rss_kb: ")
"""What is another number each time one asks."""


@lab
async def test_every_query_as_json_says_what_its_text_says(lab: Lab) -> None:
    language = Language(dict(bundled_fragments()))
    asked = {statement.rule for query in SHAPES if (statement := language.parse_line(query)) is not None}
    queries = language.queries - {"dumpconfig", "leaks", "complete", "config_drift", "reload_config_dry_run"}
    queries -= {"show_latency", "show_health", "show_errors", "show_limits", "show_clients", "show_rules", "explain", "trace"}  # elsewhere
    queries -= {"show_names", "show_tunnels", "show_files", "check_nodes"}
    queries -= {"patterns"}  # of plugins that are not loaded here
    assert asked == queries, "each query there is"

    origin = await lab.origin(app)
    more = "CREATE SERVICE later\n    SET role = selector\n    CREATE SERVICE console"
    text = CONF.replace("CREATE SERVICE console", more).format(node=origin.address)
    pbal = await lab.pbal(text.replace("ENABLE chat", "POOL app ADD 127.0.0.1:1\n    ENABLE chat"))
    assert await pbal.say("SET chat.poll_presence = on") == "OK"
    await pbal.ask("chat", b"GET /quick HTTP/1.1\r\nHost: c\r\n\r\n")
    for queue in (b"alice", b"bob", b"bert"):
        (await pbal.connect("chat"))[1].write(b"GET /poll/" + queue + b" HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 3)
    here = await console(pbal)
    assert (await here.ask('poll publish chat full "a \\" b"'))[-1] == "OK"
    stop_ticks(pbal)  # time stands still
    pbal.world.clock = ManualClock(pbal.world.clock.now(), pbal.world.clock.epoch())
    filled = 0
    for query, (lines, head) in SHAPES.items():
        await here.ask("proc")  # it tells what came since the last one
        said = await here.ask(query)
        await here.ask("proc")
        told = lines(json.loads("\n".join(await here.ask(query + "  as Json"))))
        filled += bool(told)
        assert len(told) == len(said) - head, query
        moving = [place for place, line in enumerate(told) if line.startswith(MOVES) or "ClientManage(" in line]
        for place, (one, other) in enumerate(zip(told, said[head:], strict=True)):
            assert one == other or place in moving, query
    nothing = {"counters LIKE nothing*", "empty queue", "unknown node", "certificates", "bored", "profile"}
    assert filled == sum(lines is not empty for lines, _ in SHAPES.values()) - len(nothing)
    described = [line.removesuffix(" DOWN") for line in await here.ask("show service chat")]  # the other one may not have been tried
    assert described == [
        "SERVICE chat",
        "     listening: 127.0.0.1:0",
        "          role: reverse_proxy",
        "  pend clients: 0",
        "  pend backend: 0",
        " connect-ahead: 1/0",
        "          pool: app",
        "         nodes:",
        f"{'':16}{origin.address:<21}       1",
        f"{'':16}127.0.0.1:1                 0",
        "         bored: 1",
        "       plugins: poll",
        "           set: poll_presence = on",
        "           set: poll_publish_uri = ^/publish/(?P<queue>[^/]+)$",
        "           set: poll_uri = ^/poll/(?P<queue>[^/]+)$",
    ]
    dumped = await here.ask("dumpconfig")
    assert json.loads("\n".join(await here.ask("dumpconfig AS JSON"))) == dumped[:-1] and dumped[-1] == "OK"
    assert (await here.ask("USE app AS JSON"))[0].startswith("ERROR: "), "only queries"


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A node that answers /quick at once, and others when the test is over."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/quick" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@lab
async def test_figures_of_the_process(lab: Lab) -> None:
    origin = await lab.origin(app)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    here = await console(pbal)
    await here.ask("proc")
    for _ in range(3):
        await pbal.ask("chat", b"GET /quick HTTP/1.1\r\nHost: c\r\n\r\n")
    figures = dict(line.split(": ") for line in await here.ask("proc"))
    assert list(figures) == ["time", "pid", "utime", "stime", "reqs", "rss_kb"]
    assert figures["pid"] == str(os.getpid()) and figures["reqs"] == "3 (+3)"
    assert abs(int(figures["time"]) - pbal.world.clock.epoch()) < 60 and int(figures["rss_kb"]) > 10000
    assert dict(line.split(": ") for line in await here.ask("proc"))["reqs"] == "3 (+0)"
    held = [socket.socket() for _ in range(50)]
    most, used = await here.ask("fd")
    for each in held:
        each.close()
    fewer = await here.ask("fd")
    assert most == fewer[0] == f"max {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
    assert int(used.removeprefix("cur ")) - int(fewer[1].removeprefix("cur ")) == 50
    started, up, version, kind = await here.ask("uptime")
    assert version == f"version {__version__}" and kind in ("build interpreted", "build compiled")
    assert await here.ask("version") == await here.ask("show version") == [started, up, version, kind]
    assert abs(int(started.split()[1]) + int(up.split()[1]) - pbal.world.clock.epoch()) < 3
    nodes = dict(line.split(" ")[1:3] for line in await here.ask("nodes") if "responsecodes" not in line)
    assert all(abs(int(nodes[key]) - pbal.world.clock.epoch()) < 60 for key in ("lastattempt", "lastconnect", "lastresponse"))
    assert (nodes["attempts"], nodes["connects"], nodes["failures"], nodes["requests"], nodes["active"]) == ("1", "1", "0", "3", "0")


@lab
async def test_connections_of_every_role_are_seen_in_their_states(lab: Lab) -> None:
    (lab.folder / "large").write_bytes(bytes(20_000_000))
    pbal = await lab.pbal(QUIET.replace("docroot = .", f"docroot = {lab.folder}"))
    port = {name: pbal.server.address(name)[1] for name in ("chat", "files", "front", "console")}
    wanted = {
        ("files", b""): "ClientHTTP reading_headers",
        ("files", b"GET / HTT"): "ClientHTTP reading_headers",
        ("files", b"GET /large HTTP/1.1\r\nHost: c\r\n\r\n"): "ClientHTTP xfer_res",
        ("files", b"NONSENSE\r\n\r\n"): "ClientHTTP lingering",
        ("front", b"GET / HTT"): "ClientHTTPBase reading_headers",
        ("chat", b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nab"): "ClientProxy buffering_request",
        ("chat", b"GET /poll/a HTTP/1.1\r\nHost: c\r\n\r\n"): "ClientProxy parked",
        ("console", b""): "ClientManage waiting",
    }
    names = {}
    for service, request in wanted:
        _, writer = await pbal.connect(service)
        transport_of(writer).pause_reading()
        writer.write(request)
        names[service, request] = "{}:{}".format(*writer.get_extra_info("sockname"))
    here = await console(pbal)
    tally = Counter([*wanted.values(), "ClientManage working", *4 * ["TCPListener listening"]])
    all_there = sorted(f"Perlbal::{state} {number}" for state, number in tally.items())
    async with asyncio.timeout(DEADLINE):
        while (states := await here.ask("states")) != all_there:  # noqa: ASYNC110 - what a console says sets no Event
            await asyncio.sleep(0.003)
    for query in ("states front", "STATES Front"):
        assert await here.ask(query) == ["Perlbal::ClientHTTPBase reading_headers 1", "Perlbal::TCPListener listening 1"]
    rows = await here.ask("socks")
    for (service, request), state in wanted.items():
        class_name, word = state.split()
        name = names[service, request]
        (row,) = [row for row in rows if f"to {name}:" in row]
        number = int((request.endswith(b"\r\n\r\n") and word not in ("lingering",)) or word == "buffering_request")
        flags = "RW" if word == "xfer_res" else "R"
        assert row[13:].startswith(f"Perlbal::{class_name}({flags}): open to {name}: localport={port[service]}; reqs={number}; {word}"), row
    (sending,) = [row for row in rows if "buffering_request" in row]
    assert sending.endswith("; buffering_request; http://c/publish/a; waiting_for=3")
    (large,) = [row for row in rows if "xfer_res" in row]
    assert large.endswith("; http://c/large")
    assert f"Perlbal::TCPListener(R): open: listening on 127.0.0.1:{port['front']} for service 'front'" in "\n".join(rows)
    summary = await here.ask("socks summary")
    classes = (("ClientHTTP", 4), ("ClientHTTPBase", 1), ("ClientManage", 2), ("ClientProxy", 2), ("TCPListener", 4))
    assert summary[:5] == [f"    {number} Perlbal::{name}" for name, number in classes]
    assert float(summary[5].removeprefix("Aggregate write buffer: ").removesuffix("k")) > 1
    used = (await here.ask("fd"))[1]
    assert summary[6:] == [f"            Open files: {used.removeprefix('cur ')}"]
    assert states == all_there


@lab
async def test_both_ends_of_a_proxy_are_seen_in_their_states(lab: Lab) -> None:
    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/tunnel" in head:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            elif b"/stream" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            elif b"/quick" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    here = await console(pbal)
    for path, more in (("wait", ""), ("stream", ""), ("tunnel", "Connection: Upgrade\r\nUpgrade: x\r\n"), ("quick", "")):
        reader, writer = await pbal.connect("chat")
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: c\r\n{more}\r\n".encode())
        if path == "wait":
            await until(lambda: len(pbal.world.backends) == 1, "its backend")
        else:
            await reader.readuntil(b"\r\n\r\n")
    assert [line for line in await here.ask("states chat") if not line.startswith("Perlbal::TCP")] == [
        *(f"Perlbal::BackendHTTP {state} 1" for state in ("bored", "tunnel", "wait_res", "xfer_res")),
        *(f"Perlbal::ClientProxy {state} 1" for state in ("persist_wait", "tunnel", "wait_res", "xfer_res")),
    ]
    rows = [row[13:] for row in await here.ask("socks") if "BackendHTTP" in row]
    assert sorted(row.rpartition("; ")[2] for row in rows) == ["bored", "tunnel", "wait_res", "xfer_res"]
    assert all(row.startswith(f"Perlbal::BackendHTTP(R): open to {origin.address}: localport=") for row in rows)
    assert "; uses=1; bored" in "\n".join(rows), "the uses that are over"
    clients = {row.split()[0]: row.rpartition("; ")[2] for row in await here.ask("socks") if "; backend=" in row}
    assert sorted(row.split("; ")[1:3] for row in rows if "bored" not in row) == sorted([f"client={fd}", "uses=0"] for fd in clients)
    assert len(clients) == 3 and set(clients.values()) == {f"backend={origin.address}"}
    assert await here.ask("backends") == [f"{origin.address} 4"]


@lab
async def test_who_waits_for_a_node_is_in_the_queue(lab: Lab) -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as filling:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # its kernel takes no more
            one = filling.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        pbal = await lab.pbal(CONF.format(node="{}:{}".format(*deaf.getsockname())))
        here = await console(pbal)
        _, writer = await pbal.connect("chat")
        writer.write(b"GET /x HTTP/1.1\r\nHost: c\r\n\r\n")
        handler: Any = pbal.world.service("chat").handler
        await until(lambda: handler.load()[0], "it to wait")
        pbal.world.clock = ManualClock(pbal.world.clock.now() + 7, pbal.world.clock.epoch())
        assert await here.ask("queues") == [
            "chat-normal.age 7",
            "chat-normal.count 1",
            "chat-highpri.age 0",
            "chat-highpri.count 0",
            "chat-lowpri.age 0",
            "chat-lowpri.count 0",
        ]
        assert (await here.ask("show service chat"))[3:6] == [
            "  pend clients: 1",
            "  pend backend: 1",
            "   {}:{} - connecting - 0s".format(*deaf.getsockname()),
        ]
        assert "Perlbal::ClientProxy wait_backend 1" in await here.ask("states")


# -- refusals ------------------------------------------------------------------------------------------------------

UNKNOWN = [
    ("verson", "did you mean 'VERSION'?"),
    ("xyzzy", "help lists the statements"),
    ("show service chatt", "did you mean 'chat'?"),
    ("show pool ap", "did you mean 'app'?"),
    ("show parked chatt", "did you mean 'chat'?"),
    ("show queue chatt q", "did you mean 'chat'?"),
    ("show tunables fles", "did you mean 'files'?"),
    ("states chatt", "did you mean 'chat'?"),
    ("show plugin", "did you mean 'PLUGINS'?"),
    ("show stor", "did you mean 'STORE'?"),
    ("socks sumary", "did you mean 'SUMMARY'?"),
    ("ENABLE fles", "did you mean 'files'?"),
    ("DISABLE chatt", "did you mean 'chat'?"),
    ("USE ap", "did you mean 'app'?"),
    ("SET ap.balance_method = random", "did you mean 'app'?"),
    ("SET app.balanc_method = random", "did you mean 'balance_method'?"),
    ("SET app.balance_method = randm", "did you mean 'random'?"),
    ("SET chat.idle_timeot = 1", "did you mean 'idle_timeout'?"),
    ("SET chat.pool = ap", "did you mean 'app'?"),
    ("SET front.default_service = fils", "did you mean 'files'?"),
    ("SET chat.plugins = pol", "did you mean 'poll'?"),
    ("SET chat.poll_duplicate = newst", "did you mean 'newest'?"),
    ("DEFAULT idle_timeot = 1", "did you mean 'idle_timeout'?"),
    ("SERVER graceful_timeot = 1", "did you mean 'graceful_timeout'?"),
    ("POOL ap ADD 10.0.0.1", "did you mean 'app'?"),
    ("POOL app AD 10.0.0.1", "did you mean 'ADD'?"),
    ("HEADER chatt INSERT A: b", "did you mean 'chat'?"),
    ("LOAD vhost", "did you mean 'vhosts'?"),
    ("RELOAD pol", "did you mean 'poll'?"),
    ("UNLOAD pol", "did you mean 'poll'?"),
    ("UNLOAD nothing", "plugin 'nothing' is not loaded"),
    ("VHOST front x = fils", "did you mean 'files'?"),
    ("VPATH front ^/ = files", "LOAD vpaths adds this statement"),
    ("help shwo pool", "did you mean 'show pool'?"),
    ("help Server_Process", "'server_process' is not built yet: start the process yourself, and name it with POOL ADD"),
    ("help aio_threads", "aio_threads has no meaning here: pbal has 8 threads for files, all of which it uses when the disk is slow"),
    ("poll kick alic", "did you mean 'alice'?"),
    ("version please", "usage: VERSION"),
    ("show counters LIKE", "usage: SHOW COUNTERS [LIKE <glob>]"),
    ("show queue files q", "service 'files' does not run the plugin poll"),
    ("show parked LIMIT many", "found 'many'"),
    ("nodes 10.0.0.1:http", "found 'http'"),
    ("SHUTDOWN GRACEFUL soon", "found 'soon'"),
    ("VERBOSE perhaps", "found 'perhaps'"),
    ("CREATE SERVICE chat", "service 'chat' already exists"),
    ("CREATE POOL app", "pool 'app' already exists"),
    ("ENABLE chat", "service chat is already enabled"),
    ("DISABLE console", "can't disable management service"),
]


@lab
async def test_what_is_unknown_is_said_with_what_was_meant_and_changes_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    here = await console(pbal)
    (await pbal.connect("chat"))[1].write(b"GET /poll/alice HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    before = await here.ask("dumpconfig")
    for statement, said in UNKNOWN:
        (answer,) = await here.ask(statement)
        assert answer.startswith("ERROR: ") and answer.endswith(said), (statement, answer)
    assert await here.ask("dumpconfig") == before
    assert await here.ask("nodes 10.9.9.9") == [] == await here.ask("show counters LIKE nothing")
    assert pbal.counts["poll_parked"] == 1


@lab
async def test_a_wrong_value_changes_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    here = await console(pbal)
    before = await here.ask("dumpconfig")
    refused = set()
    for service in ("chat", "files", "front", "console"):
        for name, tunable in pbal.world.tunables.items():
            for wrong in ("?", '""', "-1", "1e9", "99999999999999999999", "[", "off please"):
                with contextlib.suppress(ValueError):
                    tunable.parse(wrong.strip('"'))
                    if name not in ("pool", "default_service", "plugins") or wrong == '""':
                        continue  # no mistake
                (answer,) = await here.ask(f"SET {service}.{name} = {wrong}")
                assert answer.startswith("ERROR: ") and "internal" not in answer, (name, wrong, answer)
                if tunable.fits(pbal.world.service(service).role):
                    refused.add(name)
    assert len(refused) > 25
    assert await here.ask("dumpconfig") == before


# -- live changes --------------------------------------------------------------------------------------------------


@lab
async def test_nodes_come_and_go_while_requests_run(lab: Lab) -> None:
    first, second = await lab.origin(app), await lab.origin(app)
    pbal = await lab.pbal(CONF.format(node=first.address))
    here = await console(pbal)
    quick = b"GET /quick HTTP/1.1\r\nHost: c\r\n\r\n"
    assert (await pbal.ask("chat", quick)).status == 200
    _, waiting = await pbal.connect("chat")
    waiting.write(b"GET /slow HTTP/1.1\r\nHost: c\r\n\r\n")
    await until(lambda: pbal.world.pool("app").nodes[0].active, "a request to run")
    assert (await pbal.ask("chat", quick)).status == 200
    await until(lambda: len(pbal.world.backends) == 2, "a bored one beside it")
    assert await here.ask("backends") == [f"{first.address} 2"]
    for _ in range(2):
        assert await here.ask(f"POOL app ADD {second.address}") == ["OK"], "twice changes nothing"
    assert await here.ask(f"POOL REMOVE app {first.address}") == ["OK"]
    assert await here.ask("show pool app") == [f"{second.address} 0", f"{first.address} 3 REMOVED 1"]
    await until(lambda: len(pbal.world.backends) == 1, "the bored one to close")
    assert (await pbal.ask("chat", quick)).status == 200
    assert (await here.ask("show pool app"))[0] == f"{second.address} 1"
    reset(waiting)
    await until(lambda: not pbal.world.pool("app").draining, "it to be drained")
    assert await here.ask("show pool app") == [f"{second.address} 1"]
    assert await here.ask(f"POOL app REMOVE {second.address}") == ["OK"]
    assert (await pbal.ask("chat", quick)).status == 503
    assert await here.ask("show pool") == ["app nodes 0", "app services 1", "app usable 0"]


@lab
async def test_a_service_is_disabled_enabled_and_moved(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    here = await console(pbal)
    reader, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/a HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    old = pbal.server.address("chat")
    assert await here.ask("DISABLE chat") == ["OK"]
    assert (await read_response(reader)).status == 204
    assert "chat 127.0.0.1:0 DISABLED" in await here.ask("show service")
    assert not [row for row in await here.ask("socks") if "'chat'" in row]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*old)
    assert (await here.ask("DISABLE chat"))[0] == "ERROR: service chat is already disabled"
    assert await here.ask("ENABLE chat") == ["OK"]
    reader, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/a HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    taken = pbal.server.address("files")
    (answer,) = await here.ask("SET chat.listen = {}:{}".format(*taken))
    assert answer.startswith("ERROR: ") and "in use" in answer
    assert await here.ask("poll publish chat a hello") == ['{"queue": "a", "bytes": 5, "parked": 1}', "OK"]
    assert (await read_response(reader)).body == b"hello\n"


@lab
async def test_what_dumpconfig_prints_makes_another_that_prints_the_same(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    here = await console(pbal)
    for statement in (
        "SERVER graceful_timeout = 3s",
        "DEFAULT idle_timeout = 7s",
        "SET chat.poll_timeout = 90s",
        "VHOST front *.a.example = chat",
        "SET front.plugins = vhosts",
        "VHOST front *.a.example = chat",
        'HEADER chat INSERT X-A: "b # c"',
        "DISABLE files",
    ):
        await here.ask(statement)
    dumped = await here.ask("dumpconfig")
    assert "VHOST" in "".join(dumped) and 'HEADER chat INSERT X-A: "b # c"' in "\n".join(dumped)
    other = await console(await lab.pbal("\n".join(dumped[:-1])))
    assert await other.ask("dumpconfig") == dumped
    alone = await console(await lab.pbal(QUIET[QUIET.index("CREATE SERVICE console") :]))
    assert (await alone.ask("dumpconfig"))[0] == "CREATE SERVICE console"


def test_a_file_may_begin_with_a_mark_and_a_misspelt_role_is_one_mistake(tmp_path):
    path = tmp_path / "test.conf"
    path.write_text("\ufeffCREATE SERVICE a\n SET role = web-server\n SET docroot = .\n SET plugins = none\n SET max_boddy = 1\nENABLE a\n")
    mistakes = Interpreter(World()).run_file(str(path))
    assert [(mistake.line, mistake.hint) for mistake in mistakes] == [(2, "did you mean 'web_server'?"), (5, "did you mean 'max_body'?")]


@lab
async def test_help_knows_each_statement_by_name(lab: Lab) -> None:
    pbal = await lab.pbal(QUIET)
    here = await console(pbal)
    registry = pbal.server.interpreter.registry
    for rule in registry.help_topics():
        text = "\n".join(await here.ask(f"help {rule.replace('_', ' ')}"))
        assert registry.help_for(rule)[0] in text and pbal.server.interpreter.language.syntax(rule) in text
    assert await here.ask("help VERSION") == ["VERSION | SHOW VERSION", "  The same as uptime.", "", "  Source: Perlbal manual, version."]
    assert (await here.ask("help nonsense"))[0] == "ERROR: no statement, tunable, hook or counter is called 'nonsense'"
