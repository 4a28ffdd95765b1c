"""A Config: what a console has made of a World is printed, read, and equal."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from lab import Lab
from process import ROOT

from pbal.commands.interpreter import Interpreter
from pbal.config.render import render
from pbal.config.spec import Config
from pbal.model.snapshot import snapshot
from pbal.model.world import World

PLUGIN = """
from pbal.api import INT, TEXT, Plugin, Tunable

class Own(Plugin):
    tunables = ({tunables})
"""
VERSIONS = (
    'Tunable("own_text", TEXT, default="$HOME"), Tunable("own_more", INT, default="1"),',
    'Tunable("own_text", TEXT, default="other"),',
    'Tunable("own_text", INT, default="7"), Tunable("own_more", INT, default="2"),',
    'Tunable("own_text", TEXT, roles=frozenset({"selector"})), Tunable("own_new", TEXT),',
)


def read(lines: list[str], folder: Path) -> Config:
    """The Config of these lines, which have no mistake."""
    path = folder / "read.conf"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    world = World()
    mistakes = Interpreter(world).run_file(str(path))
    assert not mistakes, "\n".join([*(mistake.render() for mistake in mistakes), *lines])
    return snapshot(world)


NAME = st.sampled_from(["a", "b", "add", "Remove"])
TEXT = st.sampled_from(["x", "$$HOME", "$$", '"$${a} # b"', "^/a$$b$", "5", '""', "soon", "a\\b"])
SIDE = st.sampled_from(["REQUEST", "response"])
WHEN = st.sampled_from(
    ["", " WHEN Host A", ' WHEN NOT header X-A ~ "a b$$x\\" and path ^/$$a$', ' WHEN cookie a = "and" AND from 10.1.2.3/8']
)
STATEMENT = st.one_of(
    st.builds("CREATE SERVICE {}".format, NAME),
    st.builds("CREATE POOL {}".format, NAME),
    st.builds("USE {}".format, NAME),
    st.builds("SET role = {}".format, st.sampled_from(["web_server", "reverse_proxy", "selector"])),
    st.builds("SET {}.{} = {}".format, NAME, st.sampled_from(["idle_timeout", "own_text", "own_more", "own_new", "max_body"]), TEXT),
    st.builds("SET {} = {}".format, st.sampled_from(["idle_timeout", "own_text", "own_more", "response_timeout"]), TEXT),
    st.builds("SET {}.plugins = {}".format, NAME, st.sampled_from(["own", "vhosts", "vpaths vhosts", "none", "vpaths own"])),
    st.builds("SET {}.default_service = {}".format, NAME, NAME),
    st.builds("SET {}.pool = {}".format, NAME, NAME),
    st.builds("SET {}.listen = 127.0.0.1:0".format, NAME),
    st.builds("SET {}.balance_method = round_robin".format, NAME),
    st.builds("POOL {} {} 10.0.0.{}".format, NAME, st.sampled_from(["ADD", "REMOVE"]), st.integers(1, 3)),
    st.builds("DEFAULT {} = {}".format, st.sampled_from(["idle_timeout", "own_text", "own_more", "own_new", "max_body"]), TEXT),
    st.builds("SERVER graceful_timeout = {}".format, TEXT),
    st.builds("{} {}".format, st.sampled_from(["LOAD", "UNLOAD", "RELOAD"]), st.sampled_from(["own", "vhosts"])),
    st.builds("version {}".format, st.integers(0, len(VERSIONS) - 1)),
    st.builds("HEADER {} INSERT X$${}: {}".format, NAME, st.sampled_from("ab"), TEXT),
    st.builds("HEADER {} REMOVE X-{}".format, NAME, st.sampled_from("ab")),
    st.builds("HEADER {} {} SET X-{}: {}{}".format, NAME, SIDE, st.sampled_from("ab"), TEXT, WHEN),
    st.builds("HEADER {} {} ADD X-{}: $$host $$$$5{}".format, NAME, SIDE, st.sampled_from("ab"), WHEN),
    st.builds("HEADER {} {} REMOVE X-{}{}".format, NAME, SIDE, st.sampled_from("ab"), WHEN),
    st.builds("ROUTE {} TO {} WHEN path ^/{}$$x".format, NAME, NAME, NAME),
    st.builds('REWRITE {} "^/({}) x" = /b$$1{}'.format, NAME, NAME, WHEN),
    st.builds("DROP RULE {} {}".format, NAME, st.integers(1, 4)),
    st.builds("VHOST {} *.{}.test = {}".format, NAME, NAME, NAME),
    st.builds("VPATH {} ^/{}$$x$ = {}".format, NAME, NAME, NAME),
    st.builds("{} {}".format, st.sampled_from(["ENABLE", "DISABLE"]), NAME),
)


async def carry_out(statements: list[str], folder: Path) -> None:
    laboratory = Lab()
    try:
        (folder / "own.py").write_text(PLUGIN.format(tunables=VERSIONS[0]))
        pbal = await laboratory.pbal(f"""
            SERVER plugin_path = {folder}
            LOAD vpaths
            LOAD vhosts
            LOAD own
            CREATE SERVICE b
              SET role = reverse_proxy
        """)
        written = loaded = VERSIONS[0]
        for statement in statements:
            if statement.startswith("version "):
                written = VERSIONS[int(statement.split()[1])]
                (folder / "own.py").write_text(PLUGIN.format(tunables=written))
                continue
            before = pbal.world.plugins.get("own")
            answer = await pbal.say(statement)
            assert "internal" not in answer, answer
            loaded = loaded if pbal.world.plugins.get("own") in (before, None) else written
        (folder / "own.py").write_text(PLUGIN.format(tunables=loaded))
        config = snapshot(pbal.world)
        assert read(list(render(config)), folder) == config, "\n".join(render(config))
    finally:
        await laboratory.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(STATEMENT, min_size=5, max_size=30))
def test_whatever_a_console_does_is_printed_and_read_back_equal(statements: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(carry_out(statements, Path(folder)))


def test_a_default_stands_between_the_services_that_were_made_before_and_after_it(tmp_path: Path) -> None:
    lines = [
        "DEFAULT idle_timeout = 5s", "", "CREATE SERVICE a", "  SET role = web_server", "DEFAULT idle_timeout = 7s", "",
        "CREATE SERVICE b", "  SET role = web_server", "", "DEFAULT max_body = 1k",
    ]  # fmt: skip
    config = read(lines, tmp_path)
    assert list(render(config)) == lines


def test_a_plugin_is_loaded_from_the_folder_it_came_from(tmp_path: Path) -> None:
    for name in ("one", "two", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"own_{name}.py").write_text(PLUGIN.format(tunables=""))
    lines = [line for name in ("one", "two") for line in (f"SERVER plugin_path = {tmp_path / name}", f"LOAD own_{name}")]
    config = read([*lines, f"SERVER plugin_path = {tmp_path / 'none'}"], tmp_path)
    assert read(list(render(config)), tmp_path) == config


def test_every_example_is_read_back_equal(tmp_path: Path) -> None:
    for example in sorted((ROOT / "examples").glob("*.conf")):
        world = World()
        if not Interpreter(world).run_file(str(example)):  # some want files that their reader makes first
            config = snapshot(world)
            assert read(list(render(config)), tmp_path) == config, example.name
