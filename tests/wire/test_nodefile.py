"""Nodes in files: what a file may be, when it is taken, and that nothing in it or of it empties a pool by mistake."""

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab, Pbal, lab, read_response, until
from scripted import Client, Scripted, answer, get, proxy

from pbal.model import nodefile
from pbal.model.errors import ConfigError
from pbal.model.nodefile import parse
from pbal.schema.types import ENDPOINT


def site(folder: Path, nodes: str, more: str = "") -> str:
    """The configuration of a proxy `web` whose pool `app` has its nodes in the file nodes.txt."""
    (folder / "nodes.txt").write_text(nodes)
    return f"""
        CREATE POOL app
          SET nodefile = nodes.txt
        CREATE SERVICE web
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = app
        ENABLE web
        {more}
    """


async def look(pbal: Pbal, times: int = 2) -> None:
    """What the tick does, now. A file is taken when it was the same twice."""
    for _ in range(times):
        await pbal.world.nodefiles.look(pbal.server.interpreter.alone)


async def still(lab: Lab, text: str) -> Pbal:
    """A server whose tick looks at nothing: the test alone does."""
    pbal = await lab.pbal(text)
    pbal.server.ticks.stop()
    await until(lambda: pbal.world.nodefiles.due(), "a look that had begun")
    return pbal


def names(pbal: Pbal) -> list[str]:
    return [node.name for node in pbal.world.pool("app").nodes]


@lab
async def test_a_pool_has_the_nodes_of_its_file_and_takes_what_is_written_to_it(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """By the tick alone. A node that goes finishes its request; one that stays keeps its state and its counts."""
    caplog.set_level(logging.INFO)
    first, second = await Scripted.start(lab), await Scripted.start(lab)
    file = lab.folder / "nodes.txt"
    pbal = await lab.pbal(site(lab.folder, f"# nodes\n{first.address} # the old one\n\n"))
    assert names(pbal) == [first.address]
    waiting = await Client.of(pbal, request=get())
    await (await first.connection()).request()
    file.write_text(f"{second.address}\n")
    await until(lambda: names(pbal) == [second.address], "it to be taken")
    client = await Client.of(pbal, request=get())
    await (await second.connection()).request()
    (before,) = pbal.world.pool("app").nodes
    file.write_text(f"127.0.0.1:1\n{second.address}\n")
    await look(pbal)
    assert names(pbal) == ["127.0.0.1:1", second.address]
    assert pbal.world.pool("app").nodes[1] is before and before.requests == before.active == 1
    first.connections[0].say(answer(b"old"))
    second.connections[0].say(answer(b"new"))
    assert (await read_response(waiting.reader)).body == b"old"
    assert (await read_response(client.reader)).body == b"new"
    assert "nodes that came: 1, that went: 1" in caplog.text
    assert f"app nodefile {file}" in await pbal.say("show pool")


BROKEN = {
    "": "the file is empty; a comment line says that it is to have no nodes",
    " \n\n": "the file is empty",
    "127.0.0.1:1\n10.0.0.300\n": "nodes.txt:2: expected an IPv4 address such as 10.0.0.1, found '10.0.0.300'",
    "127.0.0.1:1\n\n127.0.0.1:99999 # no\n": "nodes.txt:3: expected a port from 1 to 65535",
    "127.0.0.1:1 WEIGHT 3\n127.0.0.1:2 WEIGHT many\n": "nodes.txt:2: expected a weight from 0 to 1000, found 'many'",
    "127.0.0.1:1\napp internal\n": "nodes.txt:2: expected one node a line, found 'app internal'",
    "\udcff": "expected text in UTF-8",
    "x" * ((1 << 20) + 1): "is larger than 1 MB",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_list_of_nodes_changes_nothing_and_is_told_once(text: str, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await still(lab, site(lab.folder, "127.0.0.1:1\n127.0.0.1:2\n"))
        file = lab.folder / "nodes.txt"
        file.write_bytes(text.encode(errors="surrogateescape"))
        await look(pbal, 4)
        assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"]
        assert pbal.counts["nodefile_errors"] == caplog.text.count("pool app keeps its nodes") == 1
        assert BROKEN[text] in caplog.text and BROKEN[text] in await pbal.say("show pool")
        (row,) = json.loads(await pbal.say("show pool as json"))
        assert row["nodes"] == 2 and BROKEN[text] in row["error"] and row["nodefile"] == str(file)
        said = await pbal.say("SET app.nodefile = nodes.txt")
        assert said.startswith("ERROR") and BROKEN[text] in said
        file.write_text("127.0.0.1:3\n")
        await look(pbal)
        assert names(pbal) == ["127.0.0.1:3"] and "error" not in await pbal.say("show pool")

    run()


@lab
async def test_a_file_that_vanishes_and_comes_again(lab: Lab) -> None:
    pbal = await still(lab, site(lab.folder, "127.0.0.1:1\n"))
    file, other = lab.folder / "nodes.txt", lab.folder / "other"
    file.rename(other)
    await look(pbal, 4)
    assert names(pbal) == ["127.0.0.1:1"] and pbal.counts["nodefile_errors"] == 1
    assert f"there is no file {file}" in await pbal.say("show pool")
    os.mkfifo(file)
    await look(pbal, 4)
    file.unlink()
    assert names(pbal) == ["127.0.0.1:1"]
    other.rename(file)
    await look(pbal)
    assert "error" not in await pbal.say("show pool") and pbal.counts["nodefile_errors"] == 1
    file.write_text("# nobody for now\n")
    await look(pbal)
    assert names(pbal) == []


@lab
async def test_what_is_being_written_is_not_taken_before_it_stays_as_it_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await still(lab, site(lab.folder, "127.0.0.1:1\n127.0.0.1:2\n"))
    file = lab.folder / "nodes.txt"
    for text in ("", "127.0.0.1:1\n", "127.0.0.1:1\n127.0.0.1:3\n"):
        file.write_text(text)
        await look(pbal, 1)
        assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"]
    new = lab.folder / "new"
    new.write_text("127.0.0.1:4\n127.0.0.1:5\n")
    os.replace(new, file)
    await look(pbal, 1)
    assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"]
    read = nodefile.read
    monkeypatch.setattr(nodefile, "read", lambda path: (file.write_text("127.0.0.1:6\n"), read(path))[1])
    await look(pbal, 1)
    assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"], "it was written while it was read"
    monkeypatch.setattr(nodefile, "read", read)
    await look(pbal, 1)
    assert names(pbal) == ["127.0.0.1:6"] and pbal.counts["nodefile_errors"] == 0


@lab
async def test_at_the_console(lab: Lab) -> None:
    """The nodes are there with the OK; none keeps them; statements about single nodes hold until the file is written again."""
    pbal = await still(lab, site(lab.folder, "127.0.0.1:1\n"))
    (lab.folder / "second").write_text("127.0.0.1:2\n127.0.0.1:3\n")
    assert await pbal.say("SET app.nodefile = second") == "OK"
    assert names(pbal) == ["127.0.0.1:2", "127.0.0.1:3"]
    assert "expected an existing file" in await pbal.say("SET app.nodefile = third")
    for statement, then in (
        ("ADD 127.0.0.1:4", ["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]),
        ("REMOVE 127.0.0.1:2", ["127.0.0.1:3", "127.0.0.1:4"]),
    ):
        assert "this holds until it is written again" in await pbal.say(f"POOL app {statement}")
        assert names(pbal) == then
    dumped = await pbal.say("dumpconfig")
    assert f"SET nodefile = {lab.folder}/second" in dumped and "POOL app ADD" not in dumped
    (lab.folder / "second").write_text("127.0.0.1:2\n127.0.0.1:3\n# again\n")
    await look(pbal)
    assert names(pbal) == ["127.0.0.1:2", "127.0.0.1:3"]
    for way in ("SET web.nodefile = none", "UNSET app.nodefile"):  # Perlbal takes it on a service, too
        assert await pbal.say("SET web.nodefile = second") == "OK"
        assert await pbal.say(way) == "OK"
        (lab.folder / "second").write_text("127.0.0.1:9\n")
        await look(pbal)
        assert names(pbal) == ["127.0.0.1:2", "127.0.0.1:3"]
        assert (await pbal.say("dumpconfig")).count("POOL app ADD") == 2
        (lab.folder / "second").write_text("127.0.0.1:2\n127.0.0.1:3\n")
    assert await pbal.say("SET app.nodefile = second") == "OK"
    assert await pbal.say("CREATE POOL like LIKE app") == "OK"
    await look(pbal)
    assert [node.name for node in pbal.world.pool("like").nodes] == ["127.0.0.1:2", "127.0.0.1:3"]
    assert await pbal.say("DROP POOL like") == "OK"
    await look(pbal)
    assert await pbal.say("SHOW POOL like") == "ERROR: " + (await pbal.say("SHOW POOL like")).removeprefix("ERROR: ")


@lab
async def test_nodes_in_a_file_have_the_options_of_pool_add(lab: Lab) -> None:
    pbal = await still(lab, site(lab.folder, "127.0.0.1:1 WEIGHT 3\n127.0.0.1:2 backup max 5 # spare\n127.0.0.1:3\n127.0.0.1:3\n"))

    def options() -> list[tuple[str, int, bool, int]]:
        return [(node.name[-1], node.weight, node.backup, node.most) for node in pbal.world.pool("app").nodes]

    assert options() == [("1", 3, False, 0), ("2", 1, True, 5), ("3", 2, False, 0)]
    (first, *_) = pbal.world.pool("app").nodes
    (lab.folder / "nodes.txt").write_text("127.0.0.1:1 weight 0\n127.0.0.1:2\n")
    await look(pbal)
    assert options() == [("1", 0, False, 0), ("2", 1, False, 0)] and pbal.world.pool("app").nodes[0] is first


@lab
async def test_reload_config_goes_from_named_nodes_to_a_file_and_back(lab: Lab) -> None:
    pbal = await still(lab, site(lab.folder, "127.0.0.1:1\n127.0.0.1:2\n"))
    file = lab.folder / pbal.server.interpreter.path.name
    with_file = file.read_text()
    named = with_file.replace("SET nodefile = nodes.txt", "POOL app ADD 127.0.0.1:2\nPOOL app ADD 127.0.0.1:3")
    assert await pbal.say("RELOAD CONFIG DRY RUN") == "."
    file.write_text(named)
    assert "POOL app REMOVE 127.0.0.1:1" in await pbal.say("RELOAD CONFIG DRY RUN")
    kept = pbal.world.pool("app").nodes[1]
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert names(pbal) == ["127.0.0.1:2", "127.0.0.1:3"] and pbal.world.pool("app").nodes[0] is kept
    assert await pbal.say("CONFIG DRIFT") == "."
    file.write_text(with_file)
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"] and pbal.world.pool("app").nodes[1] is kept
    assert await pbal.say("CONFIG DRIFT") == "."
    (lab.folder / "bad").write_text("127.0.0.1:1 and more: ::\nno node\n")
    file.write_text(with_file.replace("nodes.txt", "bad"))
    said = await pbal.say("RELOAD CONFIG")
    assert "nothing is changed" in said and "bad:2: expected one node a line" in said
    assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"]
    other = "CREATE POOL other\nSET nodefile = nodes.txt\nCREATE POOL third\nSET nodefile = nodes.txt\n"
    file.write_text(other + with_file)
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert [len(pool.nodes) for pool in pbal.world.pools.values()] == [2, 2, 2], "the file is that of each"


@lab
async def test_config_save_writes_the_nodes_of_a_file_that_is_given_up_and_drops_those_that_a_file_displaces(lab: Lab) -> None:
    pbal = await still(lab, site(lab.folder, "127.0.0.1:1 MAX 5\n127.0.0.1:2\n127.0.0.1:2\n"))
    file = lab.folder / pbal.server.interpreter.path.name
    assert await pbal.say("UNSET app.nodefile") == "OK"
    drift = ["UNSET app.nodefile", "POOL app ADD 127.0.0.1:1 MAX 5", "POOL app ADD 127.0.0.1:2 WEIGHT 2", "."]
    assert (await pbal.say("CONFIG DRIFT")).split("\n") == drift
    assert await pbal.say("CONFIG SAVE") == "OK"
    assert "nodefile" not in file.read_text() and await pbal.say("RELOAD CONFIG DRY RUN") == "."
    assert await pbal.say("SET app.nodefile = nodes.txt") == "OK"
    assert "POOL app REMOVE 127.0.0.1:2" in await pbal.say("CONFIG DRIFT")
    assert await pbal.say("CONFIG SAVE") == "OK"
    assert "POOL app ADD" not in file.read_text() and await pbal.say("RELOAD CONFIG DRY RUN") == "."
    assert names(pbal) == ["127.0.0.1:1", "127.0.0.1:2"]


def test_weights_that_pool_add_would_refuse_together_refuse_a_file() -> None:
    twice = b"127.0.0.1:1 WEIGHT 600\n127.0.0.1:1 WEIGHT %d\n"
    assert parse(Path("/nodes"), twice % 400)[ENDPOINT.parse("127.0.0.1:1")] == (1000, False, 0)
    with pytest.raises(ConfigError, match=r"/nodes:2: the weights of 127.0.0.1:1 are 1001 together, 1000 at most"):
        parse(Path("/nodes"), twice % 401)


@lab
async def test_a_start_reads_the_file_and_is_refused_with_its_mistake(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"nodes.txt:1: expected a host name"):
        await lab.pbal(site(lab.folder, "-bad-\n"))
    for text, message in (
        ("SET nodefile = nodes.txt\nPOOL app ADD 127.0.0.1:7", "the nodes of pool 'app' stand in"),
        ("POOL app ADD 127.0.0.1:7\nSET nodefile = nodes.txt", "a nodefile would take their place"),
        ("SET nodefile = gone.txt", "expected an existing file"),
    ):
        with pytest.raises(AssertionError, match=message):
            await lab.pbal(site(lab.folder, "127.0.0.1:1\n").replace("SET nodefile = nodes.txt", text.replace("\n", "\n          ")))


FOLDER = Path("/etc/pbal")
WORDS = st.sampled_from(
    ["10.0.0.1", "10.0.0.2:8080", "app.internal", "[::1]:82", "[::ffff:10.0.0.6]:83", "unix:/run/a.sock", "unix:a.sock", "app.internal:81"]
)
LINES = st.one_of(
    WORDS, WORDS.map(lambda word: f"  {word}\t# {word}"), st.just(""), st.just("# 10.9.9.9"),
    st.sampled_from(["web1 10.0.0.3:80", "server=10.0.0.4;", "10.0.0.5 weight 3", "10.0.0.5 or so"]),
)  # fmt: skip


@given(st.lists(LINES, min_size=1), st.sampled_from(["\n", "\r\n"]))
def test_lines_of_nodes_and_comments_are_read_in_their_order_with_their_weights(lines: list[str], end: str) -> None:
    text = end.join([*lines, "# end"])
    found = parse(FOLDER / "nodes", text.encode())
    said = {str(endpoint): weight for endpoint, (weight, _, _) in found.items()}
    expected: dict[str, int] = {}
    for line in lines:
        word = line.partition("#")[0].strip()
        if word.startswith(("web1", "server", "10.0.0.5")):
            word = {"w": "10.0.0.3:80", "s": "10.0.0.4:80", "1": "10.0.0.5:80"}[word[0]]
        if word:
            name = str(ENDPOINT.parse(word.replace("unix:a", f"unix:{FOLDER}/a")))
            expected[name] = expected.get(name, 0) + (3 if "weight" in line else 1)
    assert list(said.items()) == list(expected.items())


@given(st.binary(max_size=60) | st.text("0123456789.:[]# \n\r\tax-_/u").map(str.encode))
def test_any_octets_are_nodes_or_a_mistake_with_its_line(data: bytes) -> None:
    try:
        found = parse(FOLDER / "nodes", data)
    except ConfigError as error:
        assert error.message.startswith(str(FOLDER / "nodes"))
    else:
        assert all(ENDPOINT.parse(str(endpoint)) == endpoint for endpoint in found)


@lab
async def test_a_thousand_nodes_that_come_and_go_at_once_are_what_each_would_be_alone(lab: Lab) -> None:
    pbal = await lab.pbal(proxy("127.0.0.1:9", pool="SET sticky = node; SET node_max_connections = 7"))
    pool = pbal.world.pool("app")
    file = lab.folder / "many"
    for first, number in ((0, 1000), (500, 1000), (900, 1)):
        file.write_text("".join(f"10.0.{at >> 8}.{at & 255}:80 WEIGHT 2\n" for at in range(first, first + number)))
        assert await pbal.say(f"SET app.nodefile = {file}") == "OK"
        names = [f"10.0.{at >> 8}.{at & 255}:80" for at in range(first, first + number)]
        assert [node.name for node in pool.nodes] == names and pool.usable(pbal.world.clock.now()) == pool.nodes
        assert {(node.limit, bool(node.cookie), pool.find(node.endpoint) is node, node.weight) for node in pool.nodes} == {
            (7, True, True, 2)
        }
        assert pool.find(ENDPOINT.parse("127.0.0.1:9")) is None
