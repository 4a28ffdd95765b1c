"""Variables: what is replaced, what stays, what is refused, and where columns point afterwards."""

import pytest

from pbal.lang.expand import MAX_EXPANDED, expand, interface_address
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
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, ENVIRON).text == expanded


@pytest.mark.parametrize(
    ("text", "message", "hint", "columns"),
    [
        ("a $NONE b", "'NONE' is not in the environment", "", (3, 8)),
        ("${HOME_DIRR}", "'HOME_DIRR' is not in the environment", "did you mean 'HOME_DIR'?", (1, 13)),
        ("x$1", "'1' is not in the environment", "", (2, 4)),
        ("${A", "expected a name and '}' after '${'", "", (1, 3)),
        ("${A-b c}", "expected a name and '}' after '${'", "", (1, 3)),
        ("${if:eth0}", "'if' is not a type of variable, expected 'ip' as in ${ip:eth0}", "", (1, 11)),
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
