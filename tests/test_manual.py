"""The pages in man/ are what the declarations say, name everything there is, and are sound roff."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, lab

from pbal import manual
from pbal.commands.interpreter import Interpreter
from pbal.lang.parser import Language, bundled_fragments
from pbal.model.hooks import HOOKS
from pbal.model.world import World
from pbal.observe.counters import CORE as CORE_COUNTERS
from pbal.plugins.poll.settings import COUNTERS, TUNABLES
from pbal.schema import perlbal
from pbal.schema.meanings import TYPES
from pbal.schema.pools import POOL
from pbal.schema.roles import CORE
from pbal.schema.tunables import SERVER

PAGES = manual.pages()
LANGUAGE = Language(bundled_fragments())


def terms(page: str) -> str:
    """What a page explains: its bold terms, without roff."""
    bold = re.findall(r"^(?:\.TQ\n|\.TP\n)?\\fB(.*?)\\fR", PAGES[page], re.MULTILINE)
    return "\n".join(term.replace("\\-", "-").replace("\\&", "") for term in bold)


def test_the_pages_have_not_drifted() -> None:
    assert manual.stale(manual.DIRECTORY) == [], "python -m pbal.manual writes them"


def test_check_finds_a_page_that_drifted_and_one_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert manual.main(["--directory", str(tmp_path)]) == 0
    assert manual.main(["--directory", str(tmp_path), "--check"]) == 0
    (tmp_path / "pbal.1").write_text("something else")
    (tmp_path / "pbal-poll.7").unlink()
    assert manual.main(["--directory", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().err
    assert "pbal.1: drifted" in said and "pbal-poll.7: drifted" in said and "pbal.conf.5" not in said
    assert (tmp_path / "pbal.1").read_text() == "something else"


@pytest.mark.parametrize("tunable", [*CORE, *POOL, *SERVER, *TUNABLES], ids=lambda tunable: tunable.name)
def test_every_tunable_is_explained_and_so_is_its_type(tunable: Any) -> None:
    page = "pbal-poll.7" if tunable in TUNABLES else "pbal.conf.5"
    assert tunable.name in terms(page).split("\n")
    assert tunable.type.name in TYPES or tunable.type.choices


@pytest.mark.parametrize("rule", sorted(LANGUAGE.rules))
def test_every_statement_is_explained_in_each_of_its_forms(rule: str) -> None:
    known = {term for page in ("pbal.conf.5", "pbal-console.7", "pbal-poll.7") for term in terms(page).split("\n")}
    assert set(LANGUAGE.syntax(rule).split(" | ")) <= known


def test_every_bundled_plugin_is_explained_with_its_tunables_and_counters() -> None:
    known = terms("pbal.conf.5").split("\n")
    for name, (text, plugin) in manual.Statements().plugins.items():
        if name == "poll":
            continue
        assert f".SS {name}\n" in PAGES["pbal.conf.5"] and f"LOAD {name}\n" in text
        assert plugin.__name__.lower().replace("_", "") == name.replace("_", "")
        assert {tunable.name for tunable in plugin.tunables} | {counter.name for counter in plugin.counters} <= set(known)
        assert all(tunable.type.name in {*TYPES, "service", "pool"} or tunable.type.choices for tunable in plugin.tunables)


def test_what_to_ask_on_the_console_can_be_asked() -> None:
    text = manual.source("pbal-console.7")
    section = text[text.index("= WHAT TO ASK") : text.index("= ANSWERS")]
    asked = re.findall(r"^- (.*?):", section, re.MULTILINE)
    assert len(asked) > 8
    for query in asked:
        statement = LANGUAGE.parse_line(f"{query} AS JSON")
        assert statement is not None and statement.rule in LANGUAGE.queries
    for word in re.findall(r"`help (.*?)`", section):
        assert word.isupper() or word in {*HOOKS, *(counter.name for counter in CORE_COUNTERS), *(t.name for t in CORE), "pool add"}


def test_every_hook_and_counter_is_explained() -> None:
    conf, poll = terms("pbal.conf.5").split("\n"), terms("pbal-poll.7").split("\n")
    assert set(HOOKS) <= set(conf)
    assert {counter.name for counter in CORE_COUNTERS} <= set(conf)
    assert {counter.name for counter in COUNTERS} <= set(poll)


def test_every_name_of_perlbal_is_explained() -> None:
    known = terms("pbal-perlbal.7").split("\n")
    assert perlbal.SERVICE.keys() | perlbal.MEANINGLESS.keys() | {kind.kind for kind in perlbal.FOREIGN} <= set(known)
    assert {word.upper() for word in perlbal.COMMANDS} <= set(known)
    assert {tunable.name for tunable in CORE if not tunable.source.startswith("pbal")} <= set(known)


def test_the_configuration_for_people_from_perlbal_loads(tmp_path: Path) -> None:
    block = next(block for block in manual._blocks(manual.source("pbal-perlbal.7")) if block[0].startswith("    "))
    path = tmp_path / "page.conf"
    path.write_text("\n".join(line[4:] for line in block) + "\n", encoding="utf-8")
    interpreter = Interpreter(World())
    assert interpreter.run_file(str(path)) == []
    assert [warning.source.split()[0] for warning in interpreter.warnings] == ["SERVER", "XS"]


@pytest.mark.parametrize("page", PAGES)
def test_groff_has_no_complaint(page: str, tmp_path: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    path = tmp_path / page
    path.write_text(PAGES[page], encoding="utf-8")
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", str(path)], capture_output=True, check=True, timeout=60)
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) > 50


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".SET", "\\&.SET"),
        ("a\\b", "a\\eb"),
        ("^/x$", "\\(ha/x$"),
        ("--check", "\\-\\-check"),
        ("§", "\\[u00A7]"),
    ],
)
def test_literal_text_comes_out_as_it_is(text: str, roff: str) -> None:
    assert manual.literal(text) == roff


def test_the_languages_of_the_writers_contract_and_the_faults_are_there() -> None:
    text = manual.source("pbal-poll.7")
    for word in ("pymemcache", "aiomcache", "new Memcached", "Dalli", "Cache::Memcached", "= FAULTS", "KETAMA_WEIGHTED"):
        assert word in text


@lab
async def test_the_contract_of_the_page_works_as_printed(lab: Lab) -> None:
    """The Python of pbal-poll(7) that does without pbal."""
    client = (await lab.memcached()).client()
    block = next(block for block in manual._blocks(manual.source("pbal-poll.7")) if block[0].startswith("    def put(client"))
    names: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in block), names)  # noqa: S102 - the page's own example is what is tested
    assert names["put"](client, b"poll:a", b"one\n") and names["put"](client, b"poll:a", b"two\n")
    assert client.get(b"poll:a") == b"one\ntwo\n"
