"""pbal check: what it prints, where, and its exit status."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pbal import checking
from pbal.__main__ import main
from pbal.checking import MOST_SHOWN
from pbal.lang.mistakes import Mistake

GOOD = "CREATE SERVICE a\nSET role = web_server\nSET listen = 8080\nSET docroot = .\nENABLE a\n"
BAD = "CREATE SERVICE a\nSET rol = web_server\nNONSENSE\nCREATE SERVICE a\n"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.conf"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.conf"
    path.write_text(BAD)
    return path


def test_a_good_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(good)]) == 0
    assert capsys.readouterr() == (f"{good}: good\n", "")


def test_every_mistake_goes_to_standard_error(good: Path, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bad), str(good)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{good}: good\n"
    assert f"{bad}:2:5: 'rol' is not a tunable" in err
    assert f"{bad}:3:1: 'NONSENSE' is not a statement" in err
    assert f"  created here: {bad}:1:1\n" in err
    assert err.endswith(f"{bad}: 3 mistakes, nothing started\n")
    assert "\x1b" not in err


def test_a_file_that_cannot_be_read(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tmp_path / "none.conf"
    assert main(["check", str(none), str(good)]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (f"{good}: good\n", f"{none}: cannot be read: No such file or directory\n")


def test_nothing_to_check_is_a_fault_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == 2 and "FILE" in capsys.readouterr().err


def test_warnings_fail_only_if_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mute = tmp_path / "mute.conf"
    mute.write_text("CREATE SERVICE a\nSET role = web_server\nSET listen = 8080\nSET docroot = .\n")
    assert main(["check", str(mute)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{mute}: good, ") and "warning: no service listens: ENABLE a service with a listen address" in err
    assert main(["check", "--strict", str(mute)]) == 1


def test_json_is_one_array_of_all_files(tmp_path: Path, good: Path, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "json", str(good)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["check", "--format", "json", str(bad), str(tmp_path / "none"), str(good)]) == 2
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert err == ""
    assert rows[0] == {
        "file": str(bad), "line": 2, "column": 5, "end": 8, "kind": "unknown-tunable", "severity": "error",
        "message": "'rol' is not a tunable", "subject": "rol", "hint": "did you mean 'role'?", "candidates": ["role"], "second": None,
    }  # fmt: skip
    assert [(row["kind"], row["line"]) for row in rows[1:]] == [("unknown-statement", 3), ("exists-already", 4), ("system", 0)]
    assert rows[2]["second"] == {"note": "created here", "file": str(bad), "line": 1, "column": 1, "end": 17}


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"CREATE SERVICE a\nSET rol = x\n")))
    assert main(["check", "-"]) == 1
    assert capsys.readouterr().err.startswith("-:2:5: 'rol' is not a tunable")


def test_fifty_mistakes_are_shown_unless_all_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("NONSENSE\n" * 40)
    said = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["check", *said]) == 1
    err = capsys.readouterr().err
    assert err.count("is not a statement") == MOST_SHOWN
    assert err.count("40 mistakes, nothing started") == 2
    assert err.endswith("30 more are not shown: --all shows them\n")
    assert main(["check", "--all", *said]) == 1
    err = capsys.readouterr().err
    assert err.count("is not a statement") == 80 and "--all" not in err


def test_a_wrong_file_is_not_read_to_its_end_unless_all_of_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong").write_text("NONSENSE\n" * 600)
    said = str(tmp_path / "wrong")
    for arguments in (["check", said], ["-c", said]):
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert err.count("is not a statement") == MOST_SHOWN and "500 mistakes or more, nothing started" in err
        assert "450 more are not shown" in err
    assert main(["check", "--all", said]) == 1
    assert "600 mistakes, nothing started" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = Mistake("no", file="f", line=1, column=2, end=3, source="abc", hint="yes")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    checking.tell([mistake], screen)
    assert screen.getvalue() == "\x1b[1mf:1:2: no\x1b[0m\n    1 | abc\n      |  \x1b[1;31m^\x1b[0m\n  \x1b[32myes\x1b[0m\n"
    for stream, variable in ((io.StringIO(), ""), (Terminal(), "NO_COLOR")):
        if variable:
            monkeypatch.setenv(variable, "1")
        checking.tell([mistake], stream)
        assert stream.getvalue() == mistake.render() + "\n"


def test_from_the_shell(bad: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pbal", "check", str(bad)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"{bad}: 3 mistakes, nothing started\n")
