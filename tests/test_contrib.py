"""contrib/: what is made from the declarations is current, and does in each editor and shell what it should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pbal.editors import __main__ as editors
from pbal.lang.parser import Language, bundled_fragments

ROOT = Path(__file__).resolve().parent.parent
CONTRIB = ROOT / "contrib"
GRAMMAR: dict[str, Any] = json.loads((CONTRIB / "textmate/pbal.tmLanguage.json").read_text())


def test_what_is_made_is_current(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = editors.files()
    monkeypatch.setattr(editors, "files", lambda: made)
    assert editors.main(["--check"]) == 0
    assert editors.main(["--check", "--directory", str(tmp_path)]) == 1
    assert "pbal.vim: drifted; python -m pbal.editors writes it" in capsys.readouterr().err
    assert editors.main(["--directory", str(tmp_path)]) == 0
    assert editors.main(["--check", "--directory", str(tmp_path)]) == 0


# -- colours: the TextMate grammar, applied as its readers do ---------------------------------------------------------


def _resolved(patterns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for pattern in patterns:
        if "include" in pattern:
            found += _resolved([GRAMMAR["repository"][pattern["include"][1:]]])
        elif "match" in pattern or "begin" in pattern:
            found.append(pattern)
        else:
            found += _resolved(pattern["patterns"])
    return found


def scopes(line: str) -> list[tuple[str, str]]:
    """The parts of a line that have a name, innermost names only."""
    names = [""] * len(line)
    _colour(line, 0, len(line), _resolved(GRAMMAR["patterns"]), names)
    found: list[tuple[str, str]] = []
    last = ""
    for character, name in zip(line, names, strict=True):
        if name and name == last:
            found[-1] = (found[-1][0] + character, name)
        elif name:
            found.append((character, name))
        last = name
    return [(text, name.removesuffix(".pbal")) for text, name in found]


def _colour(line: str, start: int, end: int, patterns: list[dict[str, Any]], names: list[str], closing: str = "") -> int:
    """Name what stands from `start` on, up to `end` or what closes; where that was."""
    while True:
        close = re.compile(closing).search(line, start, end) if closing else None
        hits = [(hit.start(), place, hit, pattern) for place, pattern in enumerate(patterns) if (hit := _search(pattern, line, start, end))]
        if close is not None and (not hits or close.start() <= min(hits)[0]):
            return close.end()
        if not hits:
            return end
        _, _, hit, pattern = min(hits, key=lambda each: each[:2])
        stop = hit.end()
        for group, capture in pattern.get("beginCaptures", {}).items():
            first, last = hit.span(int(group))
            names[first:last] = [capture.get("name", "")] * (last - first)
            if "patterns" in capture:
                _colour(line[:last], first, last, _resolved(capture["patterns"]), names)
        if "begin" in pattern:
            before = list(names)
            stop = _colour(line, stop, end, _resolved(pattern["patterns"]), names, pattern["end"])
            if "name" in pattern:
                names[hit.start() : stop] = [name if name != old else pattern["name"] for name, old in zip(names, before, strict=True)][
                    hit.start() : stop
                ]
        else:
            names[hit.start() : stop] = [pattern["name"]] * (stop - hit.start())
        start = max(stop, start + 1) if stop == hit.start() else stop


def _search(pattern: dict[str, Any], line: str, start: int, end: int) -> "re.Match[str] | None":
    return re.compile(pattern.get("match") or pattern["begin"]).search(line, start, end)


STATEMENT, KEYWORD, TUNABLE, OPERATOR = "keyword.control", "keyword.other", "support.type.property-name", "keyword.operator"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("# all of it", [("# all of it", "comment.line.number-sign")]),
        ("CREATE SERVICE chat   # why", [("CREATE SERVICE", STATEMENT), ("# why", "comment.line.number-sign")]),
        ("  set role = Reverse_Proxy", [("set", STATEMENT), ("role", TUNABLE), ("=", OPERATOR), ("Reverse_Proxy", "constant.language")]),
        ("SET chat.idle_timeout=1.5s", [("SET", STATEMENT), ("idle_timeout", TUNABLE), ("=", OPERATOR), ("1.5s", "constant.numeric")]),
        ("SET chat.nothing = a#b on5", [("SET", STATEMENT), ("=", OPERATOR)]),
        ("SERVER log_level = debug", [("SERVER", STATEMENT), ("log_level", TUNABLE), ("=", OPERATOR), ("debug", "constant.language")]),
        ("POOL app ADD 10.0.0.1:80", [("POOL", STATEMENT), ("ADD", KEYWORD)]),
        ("HEADER chat INSERT X-Add: add on", [
            ("HEADER", STATEMENT), ("chat", "entity.name"), ("INSERT", KEYWORD), ("X-Add", TUNABLE), (":", OPERATOR),
        ]),
        ('SET docroot = "a $HOME # b"', [
            ("SET", STATEMENT), ("docroot", TUNABLE), ("=", OPERATOR), ('"a ', "string.quoted.double"), ("$HOME", "variable.other"),
            (' # b"', "string.quoted.double"),
        ]),
        ("show parked summary AS JSON", [("show parked summary", STATEMENT), ("AS", KEYWORD), ("JSON", KEYWORD)]),
        ("chat is up", []),
    ],
)  # fmt: skip
def test_the_colours_of_a_line(line: str, named: list[tuple[str, str]]) -> None:
    assert scopes(line) == named


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.conf")), ids=lambda path: path.name)
def test_every_line_of_the_examples_has_its_colours(path: Path) -> None:
    language = Language(bundled_fragments())
    for line in path.read_text().splitlines():
        if line.strip():
            named = scopes(line)
            assert named[0][1] in (STATEMENT, "comment.line.number-sign"), line
            statement = None if line.lstrip().startswith("#") else language.parse_line(line, environ={})
            if statement is not None and statement.rule in ("set", "default", "server_set"):
                assert statement.get("tunable") or statement.get("server_tunable"), line
                assert any(name == TUNABLE for _, name in named) or "own-plugin" in path.name, line


def test_vim_colours_the_same() -> None:
    """Its patterns are written in another language; the words in them are the same."""
    text = (CONTRIB / "vim/syntax/pbal.vim").read_text()
    for name in ("SHOW\\s\\+PARKED\\s\\+SUMMARY", "poll_keep", "least_connections", "\\|LIKE\\|"):
        assert name in text
    assert re.search(r"@[A-Z]+@(?!S)", text) is None


# -- shells ----------------------------------------------------------------------------------------------------------


def bash(*words: str) -> list[str]:
    """What bash proposes for the last word."""
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    script = f"""source contrib/completion/bash/pbal
COMP_WORDS=({quoted}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_pbal; printf '%s\\n' "${{COMPREPLY[@]}}" """
    path = shutil.which("bash")
    assert path is not None
    ran = subprocess.run([path, "--norc", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return [line for line in ran.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["pbal", "con"], ["console"]),
        (["pbal", "--log-level", "w"], ["warning"]),
        (["pbal", "-c", "examples/chat.c"], ["examples/chat.conf"]),
        (["pbal", "check", "examples/chat.c"], ["examples/chat.conf"]),
        (["pbal", "plugin", ""], ["new"]),
        (["pbal", "plugin", "new", "--f"], ["--folder"]),
        (["pbal", "plugin", "new", "x", "--folder", "exam"], ["examples"]),
        (["pbal", "console", "--js"], ["--json"]),
        (["pbal", "console", "h:1", "-e", '"show par'], ["show parked", "show parked summary"]),
        (["pbal", "console", "-e", "uptime", "-e", "show\\ par"], ["show\\ parked", "show\\ parked\\ summary"]),
        (["pbal", "console", "--user", "a"], []),
    ],
)
def test_bash_completes(words: list[str], proposed: list[str]) -> None:
    assert bash(*words) == proposed


def test_zsh_is_told_the_same() -> None:
    text = (CONTRIB / "completion/zsh/_pbal").read_text()
    assert text.startswith("#compdef pbal\n")
    for line in (
        "'show parked summary:Show the parked polls",
        "'*'{-e,--execute}'[carry it out and end; may be said several times]:statement:_pbal_statement'",
        "console) _pbal_console ;;",
        "--log-level'[least level that is logged]:value:(debug info warning error)'",
    ):
        assert line in text, line
    assert re.search(r"@[A-Z]+@", text) is None and text.replace("'\\''", "").count("'") % 2 == 0
