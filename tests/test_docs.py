"""docs/plugins.md as a new author reads it: every block runs, in the order in which it stands."""

import re
import tomllib
from pathlib import Path

import pytest

from pbal.__main__ import arguments, main
from pbal.commands.interpreter import Interpreter
from pbal.model.world import World

PAGE = (Path(__file__).resolve().parent.parent / "docs/plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "plugins"
    folder.mkdir()
    ran: list[str] = []
    for kind, text in BLOCKS:
        if kind == "sh":
            words = text.split()
            assert words[0] == "pbal" and arguments().parse_args(words[1:]) and main(words[1:]) == 0
        elif kind == "conf":
            (tmp_path / "site.conf").write_text(text)
            assert Interpreter(World()).run_file(str(tmp_path / "site.conf")) == []
        elif kind == "toml":
            assert tomllib.loads(text)["project"]["entry-points"]["pbal.plugins"]
        elif text.startswith('"""'):
            name = text[3 : text.index(":")]
            (folder / f"{name}.py").write_text(text)
        else:
            names: dict[str, object] = {}
            exec(compile(text, "docs/plugins.md", "exec"), names)  # noqa: S102 - the page's own tests
            for name, test in names.items():
                if name.startswith("test_") and callable(test):
                    test()
                    ran.append(name)
        if kind == "python" and text.startswith('"""'):
            world = World()
            (tmp_path / "one.conf").write_text(f"SERVER plugin_path = {folder}\nLOAD {name}\n")
            assert Interpreter(world).run_file(str(tmp_path / "one.conf")) == []
            ran.append(name)
    assert [kind for kind, _ in BLOCKS].count("python") == len(ran) == 6


def test_what_the_page_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (Path(__file__).resolve().parent.parent / "docs" / target).exists(), target
