"""`pbal plugin new NAME`: a plugin that works, and its test that passes, to be changed into one's own."""

import keyword
import re
from pathlib import Path

from pbal import sources

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_PLUGIN = '''"""{name}: what it does, in a line.

    LOAD {name}
    CREATE SERVICE site
      SET role    = reverse_proxy
      SET plugins = {name}
      SET {name}  = ^/private(/|$)

Requests for paths in which the pattern is found are refused with 403 before a node is asked. Change this into what you need:
`man pbal-plugins` has every hook and everything that can be imported from pbal.api.
"""

from pbal.api import REGEX, Counter, Exchange, Plugin, Tunable, Verdict, hook


class {class_name}(Plugin):
    tunables = (Tunable("{name}", REGEX, default="^/private(/|$)", summary="Paths that are refused."),)
    counters = (Counter("{name}_refused", "Requests refused by {name}."),)
    guards = True  # if it fails too often, nobody is served without it

    @hook.start_http_request
    def refuse(self, exchange: Exchange) -> Verdict:
        if not exchange.in_path(self.service["{name}"]):
            return Verdict.PASS
        self.counts["{name}_refused"] += 1
        exchange.respond(403, (), b"Not for you.\\n")
        return Verdict.TAKEN
'''

_TEST = '''"""Run with pytest, in the folder of the plugin."""

from pathlib import Path

from pbal.testing import running

SITE = """
    LOAD {name}
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = {name}
    ENABLE site
"""


def test_requests_for_the_path_are_refused_however_it_is_written() -> None:
    with running(SITE, plugins=Path(__file__).parent) as pbal:
        assert pbal.get("site", "/private/page").status == 403
        assert pbal.get("site", "//%70rivate").status == 403
        assert pbal.get("site", "/privateer").status == 404
        assert pbal.counter("{name}_refused") == 2


def test_a_tunable_changed_live_counts_at_once_and_survives_a_reload() -> None:
    with running(SITE, plugins=Path(__file__).parent) as pbal:
        assert pbal.say("SET site.{name} = ^/secret") == "OK"
        assert pbal.say("RELOAD {name}") == "OK"
        assert pbal.get("site", "/secret").status == 403
        assert pbal.get("site", "/private/page").status == 404
'''


class CannotWrite(Exception):
    """A plugin that cannot be begun. The text is for the operator."""


def new_plugin(name: str, folder: Path) -> list[Path]:
    """Write NAME.py and test_NAME.py into `folder`, which is made if need be; their paths. Raises: CannotWrite; nothing is written."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("test_"):
        raise CannotWrite(f"'{name}' is not a name for a plugin: use lower-case letters, digits and _, and begin with a letter")
    if name in sources.bundled():
        raise CannotWrite(f"a plugin '{name}' comes with pbal, and LOAD {name} loads that one: choose another name")
    files = {folder / f"{name}.py": _PLUGIN, folder / f"test_{name}.py": _TEST}
    for path in files:
        if path.exists():
            raise CannotWrite(f"{path} exists already")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    path = folder
    try:
        folder.mkdir(exist_ok=True)
        for path, text in files.items():
            path.write_text(text.format(name=name, class_name=class_name), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from None
    return list(files)
