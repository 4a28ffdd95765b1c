"""The two builds of pbal: pure Python from the checkout, and the hot path compiled (`make fast`).

`make test` runs this file against the first, `make test-fast` against the second, and PBAL_EXPECT says which is meant:
without it, tests of a compiled build could pass on an interpreted one that was found first.
"""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from lab import Lab
from lab import lab as in_lab

import pbal
from pbal import build
from pbal.net.tasks import cancel_all, running, spawn

EXPECTED = os.environ.get("PBAL_EXPECT", "interpreted")
ROOT = Path(__file__).resolve().parent.parent


def test_this_is_the_build_that_is_meant() -> None:
    assert build.kind() == EXPECTED
    for name in build.COMPILED:
        module = importlib.import_module(name)
        assert module.__file__ is not None
        assert module.__file__.endswith(".py") == (EXPECTED == "interpreted"), name
    assert (Path(pbal.__file__).parent.parent == ROOT) == (EXPECTED == "interpreted")


def test_plugins_are_interpreted() -> None:
    for name in build.COMPILED:
        assert not name.startswith("pbal.plugins"), "what RELOAD reads again cannot be an extension module"


def test_a_list_that_is_half_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_compiled", lambda module: module == build.COMPILED[0])
    assert build.kind() == "partly compiled"
    monkeypatch.setattr(build, "is_compiled", lambda module: True)
    assert build.kind() == "compiled"


def test_the_version_on_the_command_line_names_the_build() -> None:
    said = subprocess.run([sys.executable, "-m", "pbal", "--version"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert said.stdout == f"pbal {pbal.__version__} ({EXPECTED})\n"


@in_lab
async def test_the_console_names_the_build(lab: Lab) -> None:
    server = await lab.pbal("CREATE SERVICE s\n  SET role = web_server\n  SET listen = 127.0.0.1:0\nENABLE s")
    for question in ("uptime", "version", "show version"):
        rows = (await server.say(question)).splitlines()
        assert rows[2:4] == [f"version {pbal.__version__}", f"build {EXPECTED}"]


@in_lab
async def test_an_owner_without_weak_references_has_tasks(lab: Lab) -> None:
    """Compiled classes have none. Two owners that are equal are still two."""
    import asyncio

    class Owner:
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    one, other = Owner(), Owner()
    never = asyncio.Event()
    mine, theirs = spawn(one, never.wait(), "mine"), spawn(other, never.wait(), "theirs")
    cancel_all(one)
    await asyncio.wait([mine])
    assert mine.cancelled() and running() == ["theirs"]
    cancel_all(other)
    await asyncio.wait([theirs])
    assert running() == []


def test_setup_asks_for_mypy_only_where_something_is_compiled(tmp_path: Path) -> None:
    ask = "import setuptools.build_meta as b; print(b.get_requires_for_build_wheel())"
    for value, wanted in (("", False), ("0", False), ("1", True)):
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "pbal", "grammar", "man"):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(ROOT / name)
        said = subprocess.run(
            [sys.executable, "-c", ask], cwd=tmp_path, env={**os.environ, "PBAL_COMPILE": value},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert ("mypy" in said.stdout.splitlines()[-1]) == wanted


def test_every_module_of_the_list_exists() -> None:
    assert [name for name in build.COMPILED if find_spec(name) is None] == []
