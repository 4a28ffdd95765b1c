"""Where LOAD finds plugins: a distribution that is built and installed in a fresh environment, and what is said where one is broken."""

import subprocess
import sys
import sysconfig
import venv
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
from process import ROOT

from pbal import sources
from pbal.model.errors import ConfigError, UnknownName

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name    = "pbal-geo"
version = "3.1.4"

[project.entry-points."pbal.plugins"]
Geo    = "pbal_geo"
broken = "pbal_geo.nothing"

[tool.setuptools]
packages = ["pbal_geo"]
"""

PLUGIN = '''
"""geo: says where a client is, for a test."""

from pbal.api import Exchange, Plugin, Verdict, hook

from .table import WHERE

class Geo(Plugin):
    @hook.start_http_request
    def say(self, exchange: Exchange) -> Verdict:
        exchange.respond(200, (), WHERE.encode())
        return Verdict.TAKEN
'''

DRIVER = """
from pbal import sources
from pbal.testing import running

assert "geo" in sources.installed([])
with running('''
    LOAD GEO
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = Geo
    ENABLE site
''') as pbal:
    assert pbal.get("site", "/").body == b"on earth"
    assert "loaded geo version 3.1.4 generation 1 errors 0 services site" in pbal.say("SHOW PLUGINS")
    assert pbal.say("RELOAD geo") == "OK"
    assert "generation 2" in pbal.say("SHOW PLUGINS")
    assert pbal.get("site", "/").body == b"on earth"
    said = pbal.say("LOAD broken")
    assert said == "ERROR: plugin 'broken' of distribution pbal-geo 3.1.4 cannot be found: there is no module pbal_geo.nothing", said
    assert "plugin_path" not in pbal.say("dumpconfig") and "LOAD geo" in pbal.say("dumpconfig")
print("fine")
"""


def test_a_distribution_is_found_by_its_entry_point_in_a_fresh_environment(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "pbal_geo").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "pbal_geo/__init__.py").write_text(PLUGIN)
    (project / "pbal_geo/table.py").write_text('WHERE = "on earth"\n')
    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=False)
    python = fresh / "bin/python"
    packages = next(fresh.glob("lib/python*/site-packages"))
    (packages / "of-this-one.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")  # what pbal itself needs
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    done = subprocess.run([*install, str(project)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "elsewhere").mkdir()
    ran = subprocess.run(
        [str(python), "-c", DRIVER], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path / "elsewhere", env={}
    )
    assert (ran.returncode, ran.stdout) == (0, "fine\n"), ran.stdout + ran.stderr


def test_what_comes_with_pbal_goes_before_a_file_of_the_same_name_and_names_match_in_any_case(tmp_path: Path) -> None:
    for name in ("vhosts", "Mine"):
        (tmp_path / f"{name}.py").write_text("")
    assert sources.find("VHosts", [tmp_path]).path.parent == sources.BUNDLED
    assert sources.find("mINE", [tmp_path]).path == tmp_path / "Mine.py"
    assert {"mine", "poll", "vpaths"} <= set(sources.installed([tmp_path])) and "mine" not in sources.bundled()


def test_a_distribution_that_is_installed_to_be_edited_is_found_by_its_finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "geo-1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "geo-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: geo\nVersion: 1\n")
    (tmp_path / "site" / "geo-1.dist-info" / "entry_points.txt").write_text("[pbal.plugins]\ngeo = edited_geo.plugin\n")
    (tmp_path / "work").mkdir()
    for name in ("__init__.py", "plugin.py"):
        (tmp_path / "work" / name).write_text("1 / 0\n")

    class Editable:
        """As pip makes one."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            file = tmp_path / "work" / "__init__.py"
            return spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)]) if name == "edited_geo" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert sources.find("geo", []).path == tmp_path / "work" / "plugin.py"


def test_what_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(UnknownName, match="there is no plugin 'polls'") as caught:
        sources.find("polls", [])
    assert "poll" in caught.value.candidates and issubclass(UnknownName, ConfigError)
