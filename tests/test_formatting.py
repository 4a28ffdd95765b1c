"""pbal fmt: the canonical form, what it keeps, and what it does to files."""

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pbal.__main__ import main
from pbal.commands.interpreter import Interpreter
from pbal.formatting import Refused, formatted
from pbal.model.snapshot import snapshot
from pbal.model.world import World

UNTIDY = r"""


# the pools
create   pool app   # of the application
pool app add 10.0.0.1:80
      POOL "app" ADD   "10.0.0.2"


POOL other add 10.0.0.3
   load vhosts
# the site
create service site
set role=reverse_proxy
SET  site . pool = "app"
# indented, as what follows
	set "idle_timeout" = "30s"# no comment
SET buffer_size = " 1m "   #   kept
  header site insert "X-A" :   "b  c"
  header site INSERT X-B:"a # b"
limit site 10/s burst 20
     limit site 5/s by address dry run
SET docroot = ${file:a b}"x
set index_files = "${env:A:-a b}"
set access_log_format = "\$client $$status \"x\""
enable   site

use app
set balance_method = $METHOD
create service "front"
vhost *.a = site
vhost front "b" = "site"
vhost site c=site
show parked "summary"
show service site as json

# the end

"""

TIDY = r"""# the pools
CREATE POOL app  # of the application
  POOL app ADD 10.0.0.1:80
  POOL app ADD 10.0.0.2

POOL other ADD 10.0.0.3
LOAD vhosts
# the site
CREATE SERVICE site
  SET role = reverse_proxy
  SET site.pool = app
  # indented, as what follows
  SET idle_timeout = "30s"# no comment
  SET buffer_size = " 1m "  #   kept
  HEADER site INSERT X-A: b  c
  HEADER site INSERT X-B: "a # b"
  LIMIT site 10/s BURST 20
  LIMIT site 5/s BY address DRY RUN
  SET docroot = ${file:a b}"x
  SET index_files = "${env:A:-a b}"
  SET access_log_format = "$$client $$status \"x\""
ENABLE site

USE app
  SET balance_method = $METHOD
CREATE SERVICE front
  VHOST *.a = site
  VHOST front b = site
VHOST site c = site
SHOW PARKED "summary"
SHOW SERVICE site AS JSON

# the end
"""


def test_the_canonical_form() -> None:
    untidy = UNTIDY.replace('"30s"# no comment', '"30s" # a comment')
    tidy = TIDY.replace('"30s"# no comment', "30s  # a comment")
    assert formatted(untidy) == tidy
    assert formatted(tidy) == tidy
    assert formatted(untidy.replace("\n", "\r\n")) == tidy
    assert formatted("") == formatted("\n\n") == ""


def test_every_mistake_in_the_syntax_is_told_and_nothing_is_made() -> None:
    with pytest.raises(Refused) as refused:
        formatted(UNTIDY + "CREATE\nNONSENSE\nSET a = \x00\n", "f.conf")
    lines = [mistake.headline for mistake in refused.value.mistakes]
    assert [line.partition(": ")[2] for line in lines] == [
        "expected the end of the line after the closing quote, found '# no comment'",
        "expected POOL or SERVICE, found the end of the line",
        "'NONSENSE' is not a statement",
        "expected text, found the control character 0x00",
    ]


def test_statements_of_a_plugin_that_is_not_known_keep_their_words() -> None:
    text = "load mine\ncreate service a\n  frob   the  x\n\nset x = 1\n"
    assert formatted(text) == "LOAD mine\nCREATE SERVICE a\n  frob   the  x\n\n  SET x = 1\n"
    with pytest.raises(Refused):
        formatted(text.replace("mine", "poll"))


WORDS = ["CREATE SERVICE", "create pool", "USE", "ENABLE"]
VALUES = [
    "on",
    '"30s"',
    "5m",
    '"a # b"',
    "$$A",
    r'"\$A \" \\"',
    "a#b",
    '"  x"',
    "x  y",
    "${env:NONE:-5s}",
    "$TEN",
    '""',
    '"#"',
    "= =",
    '"a"b',
]
NAMES = ["a", "b", '"a"', "A", "add", '"add"', "summary"]
SAID = st.one_of(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(NAMES)).map(" ".join),
    st.sampled_from(
        ["SET role = reverse_proxy", "set role=selector", "SET role = web_server", "LOAD vhosts", "SET plugins = vhosts", "", " "]
    ),
    st.tuples(
        st.sampled_from(["SET", "set a", "SET a.", "DEFAULT", "SET b ."]),
        st.sampled_from(["idle_timeout", '"idle_timeout"', "access_log_format", "index_files", "pool"]),
        st.sampled_from(VALUES),
    ).map(lambda said: f"{said[0]} {said[1]} = {said[2]}"),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["10.0.0.1", '"10.0.0.2:80"', "$TEN"])).map(
        lambda said: f"POOL {said[0]} add {said[1]}"
    ),
    st.tuples(st.sampled_from(["X-A", '"X-B"', "x$"]), st.sampled_from(VALUES)).map(lambda said: f"header a insert {said[0]} : {said[1]}"),
    st.tuples(st.sampled_from(["", "a", '"b"']), st.sampled_from(["*.x", '"y"', "*"])).map(lambda said: f"VHOST {said[0]} {said[1]} = b"),
    st.sampled_from(["# a comment", "  #", "show parked", 'POOL ADD "a" 10.0.0.3', "unset idle_timeout", "SHUTDOWN"]),
)
LINES = st.lists(st.tuples(st.sampled_from(["", "  ", "\t"]), SAID, st.sampled_from(["", "  ", " # why", "\t#"])).map("".join), max_size=25)


def meaning(folder: Path, text: str) -> object:
    """What a configuration says: the Config, and what is wrong with it."""
    path = folder / "test.conf"
    path.write_text(text)
    world = World()
    mistakes = Interpreter(world).run_file(str(path))
    return snapshot(world), [mistake.message.lower() for mistake in mistakes]


@settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(LINES)
def test_what_a_file_means_stays_and_a_second_time_changes_nothing(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp()
    os.environ["TEN"] = "10"
    text = "\n".join(lines)
    try:
        made = formatted(text)
    except Refused:
        return
    assert formatted(made) == made
    assert meaning(folder, made) == meaning(folder, text)


def test_files_are_written_only_if_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, link = tmp_path / "real.conf", tmp_path / "link.conf"
    real.write_text("create pool a\n")
    real.chmod(0o640)
    link.symlink_to(real)
    assert main(["fmt", str(link)]) == 0
    assert capsys.readouterr() == ("CREATE POOL a\n", "")
    assert main(["fmt", "--check", str(link)]) == 1
    assert capsys.readouterr().out == f"{link}: would be changed\n"
    assert real.read_text() == "create pool a\n"
    assert main(["fmt", "-i", str(link)]) == 0
    assert real.read_text() == "CREATE POOL a\n" and link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert main(["fmt", "--check", str(link)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.conf", "real.conf"]


def test_a_file_with_a_mistake_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = tmp_path / "bad.conf", tmp_path / "good.conf"
    bad.write_text("create pool a\nCRAETE pool b\n")
    good.write_text("create pool a\n")
    assert main(["fmt", "--write", str(bad), str(good), str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert f"{bad}:2:1: 'CRAETE' is not a statement" in err and f"pbal: {tmp_path / 'none'}: No such file or directory" in err
    assert (bad.read_text(), good.read_text()) == ("create pool a\nCRAETE pool b\n", "CREATE POOL a\n")


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"create  pool a")))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr().out == "CREATE POOL a\n"
