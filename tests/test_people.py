"""How values and tables read for people."""

import pytest

from pbal.schema.commands import Facts, Item, Objects, Rows, Text
from pbal.schema.people import PIECE, Octets, Unit, View, duration, moment, octets

VIEW = View(60, 1_700_000_000.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.0004, "0.4ms"),
        (1.5, "1.5s"),
        (59, "59s"),
        (60, "1m"),
        (133, "2m 13s"),
        (3600, "1h"),
        (11_100, "3h 5m"),
        (86_400, "1 day"),
        (100_000, "1 day 3h"),
        (259_200 + 3600, "3 days"),
        (-133, "-2m 13s"),
    ],
)
def test_times_are_said_in_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0"), (812, "812"), (1024, "1k"), (4608, "4.5k"), (200 << 20, "200m"), (3 << 40, "3072g")]
)
def test_sizes_are_said_as_in_set(number: int, said: str) -> None:
    assert octets(number) == said


def test_a_moment_says_how_long_ago() -> None:
    assert moment(VIEW.now - 133, VIEW.now).endswith(" (2m 13s ago)") and len(moment(VIEW.now, VIEW.now)) == len("11:33:20 (0s ago)")
    assert moment(VIEW.now - 1e6, VIEW.now).endswith(" (11 days ago)") and moment(VIEW.now - 1e6, VIEW.now).startswith("2023-11-0")
    assert moment(VIEW.now + 60, VIEW.now).endswith(" (in 1m)")


def rows(*rows: tuple[object, ...], **units: Unit) -> list[str]:
    return list(Rows(("name", "last_seen", "note"), rows, str, units=units).as_table(VIEW))


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    assert rows(("a", 5, "x"), ("longer", 133, None), last_seen=Unit.SECONDS) == [
        "NAME    LAST SEEN  NOTE",
        "a              5s  x",
        "longer     2m 13s  -",
    ]
    assert rows() == ["(none)"]


def test_a_table_too_wide_folds_its_last_column() -> None:
    told = rows(("a", 5, "one two three four five six seven eight nine ten eleven"), ("b", 6, "short"))
    assert told == [
        "NAME  LAST SEEN  NOTE",
        "a             5  one two three four five six seven eight",
        f"{'':17}nine ten eleven",
        "b             6  short",
    ]
    assert all(len(line) <= VIEW.width for line in told)


def test_a_table_much_too_wide_stacks_its_titles_and_narrows_what_needs_it_least() -> None:
    values = [(f"tunable_{number}", "on", 1.5) for number in range(9)] + [("x", "a value longer than all others", 2)]
    told = list(Rows(("name", "was_set", "minute_p50"), values, str, units={"minute_p50": Unit.MILLISECONDS}).as_table(View(36, 0)))
    assert told[:3] == [
        "           WAS                MINUTE",
        "NAME       SET                   P50",
        "tunable_0  on                  1.5ms",
    ]
    assert told[-1] == "x          a value longer than all others     2ms"


def test_sizes_among_other_numbers_are_said_as_sizes() -> None:
    told = list(Rows(("what", "value"), (("bytes", Octets(5 << 20)), ("files", 5 << 20)), str).as_table(View(80, 0)))
    assert [line.split()[1] for line in told[1:]] == ["5m", "5242880"]
    assert list(Rows(("what", "value"), (("bytes", Octets(5 << 20)),), str).as_json())[1] == '  {"what": "bytes", "value": 5242880}'


def test_what_strangers_sent_writes_nothing_else_to_a_terminal() -> None:
    (_, line) = rows(("\x1b[2Jä\x07", 1, "\u202eevil"))
    assert line.isprintable() and "�[2Jä�" in line
    assert list(Text(["\x1b]0;x"]).as_table(VIEW)) == ["�]0;x"]
    assert rows(("日本", 1, "x"), ("abcd", 2, "y"))[1:] == ["日本          1  x", "abcd          2  y"], "two columns each"


def test_a_long_table_is_made_piece_by_piece() -> None:
    taken = []

    def many() -> object:
        for number in range(10 * PIECE):
            taken.append(number)
            yield (number,)

    lines = Rows(("number",), many(), str).as_table(VIEW)  # type: ignore[arg-type]
    assert next(lines) == "NUMBER" and len(taken) == PIECE
    assert len(list(lines)) == 10 * PIECE


def test_one_reply_three_readers() -> None:
    def reply() -> Objects:
        value = {"service": "a", "normal": {"age": 133, "count": 2}, "codes": {"200": 6, "404": 1}, "of": ["x", "y"], "up": True}
        items = [Item(value, ("a-normal.age 133", "a-normal.count 2"))]
        seen = ("service", "normal.age", "normal.count", "codes", "of", "up", "missing")
        return Objects(items, header=("for scripts",), head=("for all",), seen=seen, units={"age": Unit.SECONDS})

    assert list(reply().as_text()) == ["for scripts", "for all", "a-normal.age 133", "a-normal.count 2", "."]
    assert "".join(reply().as_json()) == (
        '[  {"service": "a", "normal": {"age": 133, "count": 2}, "codes": {"200": 6, "404": 1}, "of": ["x", "y"], "up": true}]'
    )
    assert list(reply().as_table(View(100, 0))) == [
        "for all",
        "SERVICE  NORMAL AGE  NORMAL COUNT  CODES        OF    UP   MISSING",
        "a            2m 13s             2  200:6 404:1  x, y  yes  -",
    ]


def test_facts_are_one_object_and_a_block() -> None:
    facts = Facts({"up": 133, "set": {"a_b": "on"}, "nodes": [{"node": "n", "requests": 7}], "none": []}, units={"up": Unit.SECONDS})
    assert list(facts.as_table(VIEW)) == [
        "up    2m 13s",
        "none  -",
        "",
        "set",
        "  a_b  on",
        "",
        "nodes",
        "  NODE  REQUESTS",
        "  n            7",
    ]
    assert "".join(Facts({"a": 1, "b": None}).as_json()) == '{  "a": 1,  "b": null}'
    assert list(Facts({"a": 1}).as_text()) == ["a 1", "."]
    assert list(Facts({}).as_table(VIEW)) == ["(none)"] and "".join(Facts({}).as_json()) == "{}"


def test_prose_is_folded_and_code_is_not() -> None:
    long = "  one two three four five six seven eight nine ten eleven twelve thirteen"
    assert list(Text([long, "", "x"], prose=True).as_table(View(40, 0))) == [
        "  one two three four five six seven",
        "  eight nine ten eleven twelve thirteen",
        "",
        "x",
    ]
    assert list(Text([long]).as_table(View(40, 0))) == [long]
