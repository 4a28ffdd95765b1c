"""Variables: what is replaced, what stays, what is refused, and where columns point afterwards."""

import os
from pathlib import Path

import pytest

from pbal.lang.expand import MARK, MAX_EXPANDED, MAX_SECRET, expand, interface_address
from pbal.lang.mistakes import Mistake

ENVIRON = {"A": "alpha", "HOME_DIR": "/home", "EMPTY": "", "TAIL": "x$A", "BAD": "a\nb", "LONG": "y" * 1000}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("plain", "plain"),
        ("$A", "alpha"),
        ("${A}", "alpha"),
        ("$A$A", "alphaalpha"),
        ("${A}b", "alphab"),
        ("$HOME_DIR/x", "/home/x"),
        ("[$EMPTY]", "[]"),
        ("^/a$", "^/a$"),
        ("a$|b$", "a$|b$"),
        ("$$", "$$"),
        ("$$A", "$A"),
        ("$$$A", "$alpha"),
        ("$$$$A", "$$A"),
        ("a$$b$A", "a$balpha"),
        ("$${A}", "${A}"),
        ("$${A", "${A"),
        ("$${,3}", "$${,3}"),
        ("^/a$$", "^/a$$"),
        ("$ A", "$ A"),
        ("${,3}", "${,3}"),
        ("$é", "$é"),
        ("{A}", "{A}"),
        ("$TAIL", "x$A"),
        (r"\$A", r"\alpha"),
        (r'"\$A"', r'"\$A"'),
        (r'"\$$A"', r'"\$alpha"'),
        (r'"\\$A" $A', r'"\\alpha" alpha'),
        (r'"\$A', r'"\alpha'),
        (r'"a" \$A "\$A" $A', r'"a" \alpha "\$A" alpha'),
        ("${env:A}", MARK),
        ("${env:NONE:-none}x", f"{MARK}x"),
        ("$${env:A}", "${env:A}"),
        ("$$${env:A}", f"${MARK}"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, ENVIRON).text == expanded


@pytest.mark.parametrize(
    ("text", "message", "hint", "columns"),
    [
        ("a $NONE b", "'NONE' is not in the environment", "", (3, 8)),
        ("${HOME_DIRR}", "'HOME_DIRR' is not in the environment", "did you mean 'HOME_DIR'?", (1, 13)),
        ("x$1", "'1' is not in the environment", "$$1 is the text $1", (2, 4)),
        ("$client $status", "'client' is not in the environment", "$$client is the text $client", (1, 8)),
        ("${A", "expected a name and '}' after '${'", "", (1, 3)),
        ("${A-b c}", "expected a name and '}' after '${'", "", (1, 3)),
        ("${if:eth0}", "'if' is not a type of variable, expected env, file or ip as in ${ip:eth0}", "", (1, 11)),
        ("${env:NONE}", "'NONE' is not in the environment", "", (1, 12)),
        ("${env:BAD}", "'BAD' in the environment holds a line end or another control character", "", (1, 11)),
        ("x${file:}", "expected the path of a file after '${file:'", "", (2, 10)),
        ("${file:none.txt}", "cannot read none.txt: No such file or directory", "", (1, 17)),
        ("${file:/}", "cannot read /: it is no plain file", "", (1, 10)),
        ("$BAD", "'BAD' in the environment holds a line end or another control character", "", (1, 5)),
        ("${ip:lo0}", "the interface 'lo0' has no IPv4 address", "did you mean 'lo'?", (1, 10)),
        (
            "${ip:sixteen_octets_x}",
            "'sixteen_octets_x' is too long for the name of an interface",
            "",
            (1, 23),
        ),
    ],
)
def test_refusals(text: str, message: str, hint: str, columns: tuple[int, int]) -> None:
    with pytest.raises(Mistake) as raised:
        expand(text, ENVIRON)
    assert (raised.value.message, raised.value.hint) == (message, hint)
    assert (raised.value.column, raised.value.end) == columns


def test_the_address_of_an_interface() -> None:
    assert interface_address("lo") == "127.0.0.1"
    assert expand("${ip:lo}:80", {}).text == "127.0.0.1:80"


def test_expansion_is_bounded() -> None:
    with pytest.raises(Mistake, match=f"longer than {MAX_EXPANDED} characters"):
        expand("$LONG" * 1000, ENVIRON)


def test_columns_before_inside_between_and_after() -> None:
    line = expand("a $A b ${EMPTY} c", ENVIRON)
    assert line.text == "a alpha b  c"
    by_text = {text: line.text.index(text) for text in ("a ", "alpha", "pha", "b", "c")}
    assert {text: line.column(offset) for text, offset in by_text.items()} == {
        "a ": 1,
        "alpha": 3,
        "pha": 3,
        "b": 6,
        "c": 17,
    }
    assert line.end_column(by_text["alpha"] + 5) == 5
    assert line.end_column(by_text["alpha"] + 2) == 5
    assert line.end_column(by_text["b"] + 1) == 7
    assert line.end_column(len(line.text)) == 18


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:A}", "alpha"),
        ("${env:A:-x}", "alpha"),
        ("${env:EMPTY}", ""),
        ("${env:EMPTY:-x y}", "x y"),
        ("${env:NONE:-}", ""),
        ("${env:TAIL}", "x$A"),
        ("${file:secret}", 'a "b" # c'),
        ("${file:dos}", "abc"),
    ],
)
def test_values_stand_for_themselves(tmp_path: Path, text: str, value: str) -> None:
    (tmp_path / "secret").write_text('a "b" # c\nmore\n')
    (tmp_path / "dos").write_bytes(b"abc\r\n")
    line = expand(f"x {text} y", ENVIRON, tmp_path)
    assert line.text == f"x {MARK} y"
    assert [piece.value for piece in line.pieces] == [value]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\nabc", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b"a\x00b\n", "holds a control character"),
        (b"a" * (MAX_SECRET + 1), f"is longer than {MAX_SECRET} octets"),
    ],
    ids=["empty", "empty line", "not utf-8", "nul", "long"],
)
def test_the_first_line_of_a_file_is_a_text(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(Mistake) as raised:
        expand("${file:f}", {}, tmp_path)
    assert raised.value.message == f"the first line of f {message}"


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    for name, mode in (("open", 0o644), ("closed", 0o640)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    line = expand("${file:open} ${file:closed}", {}, tmp_path)
    assert line.warnings == ("others can read open: chmod o-r keeps what it holds secret",)


def test_a_pipe_without_a_writer_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Mistake, match="cannot read pipe: it is no plain file"):
        expand("${file:pipe}", {}, tmp_path)
