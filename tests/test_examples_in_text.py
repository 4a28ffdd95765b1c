"""Every example in the manual pages and in the README is run, or as much of it as runs without the machine it is about.

A block is told by how it begins. Configurations are read as a file is, among the services that the text speaks of, and have no mistake
but files that this machine has not. Statements are parsed. Commands are read by the command line that they are for. Python is run as far
as its imports, and compiled. What is none of these stands in OTHER, with what the test sees of it.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbal import manual
from pbal.__main__ import arguments
from pbal.commands.interpreter import Interpreter
from pbal.lang.parser import Language, bundled_fragments
from pbal.model.world import World
from pbal.schema.passwords import line_for

ROOT = Path(__file__).resolve().parent.parent
LANGUAGE = Language(bundled_fragments())
OTHER = {
    "certbot certonly": "clear",  # a configuration comes behind it
    "const source": "EventSource",
    "append KEY": "NOT_STORED",
    "$cache = new": "addServer",
    "require 'dalli'": "Dalli::Client",
    "use Cache::Memcached": "servers",
    "printf 'add": "poll:alice",
}
"""Programs and protocols of others by what they begin with, and a word that they have."""


def blocks(text: str) -> Iterator[str]:
    """The literal blocks of a text."""
    for block in manual._blocks(text):
        if block[0].startswith("    "):
            yield "\n".join(line[4:] for line in block)


def _readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[: text.index("\n## A tour of the source")]


TEXTS = {page: manual.source(page) for page in manual.pages()} | {"README.md": _readme()}
TEXTS |= {f"plugin {name}": text for name, (text, _) in manual.Statements().plugins.items() if name != "poll"}
EXAMPLES = [pytest.param(block, id=f"{name}:{block.splitlines()[0][:40]}") for name, text in TEXTS.items() for block in blocks(text)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_does_what_the_text_says(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = next((word for beginning, word in OTHER.items() if example.startswith(beginning)), None)
    if other is not None:
        assert other in example
        example = example.partition("\n\n")[2] if "CREATE SERVICE" in example else ""
    if not example:
        return
    if example.startswith("{"):
        assert json.loads(example)
    elif re.match(r"(from|import|def) ", example):
        _python(example)
    elif re.match(r"(CREATE|LOAD|SERVER) ", example):
        _configuration(example, tmp_path)
    elif re.match(r"(SET|HEADER|INCLUDE) ", example) and "=" not in example.partition("\n")[0].partition(" ")[0]:
        _piece(example, tmp_path, monkeypatch)
    else:
        for line in example.splitlines():
            if line and not re.match(r"[0-9:.]+ ", line):  # what a trace prints
                _line(line)


def _python(example: str) -> None:
    tree = ast.parse(example)
    imports: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "example", "exec"), {})  # noqa: S102 - an example that is to work


def _around(example: str, role: str = "web_server") -> str:
    """The plugins and services that a piece of a configuration is about, and does not make itself; the last is the current object."""
    loaded = re.findall(r"^LOAD (\w+)", example.lower(), re.MULTILINE)
    lines = [f"LOAD {plugin}" for plugin in ("poll", "vhosts", "vpaths") if plugin not in loaded]
    for name in ("other", "chat", "files", "site"):
        if f"CREATE SERVICE {name}" not in example and (name == "site" or re.search(rf"\b{name}\b", example)):
            lines += [f"CREATE SERVICE {name}", f"SET role = {role}", "SET plugins = poll"]
    return "\n".join(lines) + "\n"


def _configuration(example: str, tmp_path: Path) -> None:
    _is_good(f"{example if example.startswith('SERVER') else _around(example) + example}\n", tmp_path)


def _piece(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("secrets", "sites", "old sites"):
        (tmp_path / folder).mkdir()
    (tmp_path / "secrets" / "token").write_text("abc")
    (tmp_path / "old sites" / "blog.conf").write_text("# nothing\n")
    monkeypatch.delenv("SITE_ROOT", raising=False)
    for role, begin in (("reverse_proxy", ("HEADER",)), ("web_server", ("SET", "INCLUDE"))):
        said = "\n".join(line for line in example.splitlines() if line.startswith(begin))
        if said:
            _is_good(_around(said, role) + said + "\n", tmp_path)


def _is_good(text: str, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text(line_for("ann", "a long password") + "\n", encoding="utf-8")
    (tmp_path / "hello.py").write_text("def handler(request): ...\n", encoding="utf-8")
    path = tmp_path / "example.conf"
    path.write_text(text, encoding="utf-8")
    mistakes = Interpreter(World()).run_file(str(path))
    elsewhere = [mistake for mistake in mistakes if re.search(r"/(?:etc|srv|var|run)/\S+|pip install", mistake.message)]
    assert mistakes == elsewhere, [mistake.render() for mistake in mistakes]


def _line(line: str) -> None:
    """A statement, or a command."""
    said = line.removeprefix("$ ")
    words = shlex.split(said, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif words[:3] == [".venv/bin/python", "-m", "pbal"] or words[0] == "pbal":
        options = arguments().parse_args([word for word in words[1 if words[0] == "pbal" else 3 :] if word != "&"])
        if options.command is None and options.config.startswith("examples/"):
            assert (ROOT / options.config).is_file()
    elif words[0] == "echo":
        assert LANGUAGE.parse_line(words[1]) is not None
    elif words[0] == "curl" or words[:3] == ["python3", "-m", "http.server"]:
        assert words[-1] == "&" or words[-1].startswith("http://127.0.0.1:8080/")
    elif line == "site.conf: good":
        return
    else:
        assert LANGUAGE.parse_line(said) is not None, line


def test_there_are_enough_of_them() -> None:
    assert len(EXAMPLES) > 35
