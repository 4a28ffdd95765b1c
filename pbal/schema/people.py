"""How values and tables read for people: columns aligned, numbers to the right, times and sizes as one says them.

Scripts never see any of this: they have Perlbal's lines, or JSON. A table is made a piece at a time. The first PIECE rows decide how wide
its columns are, and a longer value pushes its own line only: a list of fifteen thousand is never whole in memory.
A table that is too wide for the terminal says its titles in several lines, makes those columns narrower whose values need it least, and
wraps the text of its last column.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from textwrap import wrap
from time import localtime, strftime
from typing import Final

PIECE: Final = 80
"""Rows that decide how wide the columns are."""
NARROWEST: Final = 24
"""Columns that the last column of a table has at least, however narrow the terminal is."""
SLIMMEST: Final = 8
"""Columns that any other has at least where its values are wider."""
WIDEST: Final = 32
"""Columns that a column of a table has at most; a longer value pushes what is to the right of it, in its own line."""
GAP: Final = "  "
NOTHING: Final = "(none)"


class Unit(Enum):
    """What a number counts, where that changes how people say it."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MOMENT = "seconds since 1970"
    OCTETS = "octets"


class Octets(int):
    """A size among numbers of other things, where a column has no unit."""


@dataclass(frozen=True, slots=True)
class View:
    """Who looks: the columns of the terminal, and the time (seconds since 1970)."""

    width: int
    now: float


def duration(seconds: float) -> str:
    """A time in its two largest units: `250ms`, `13s`, `2m 13s`, `3h 5m`, `1 day 4h`, `12 days`."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 1 and seconds != int(seconds):
        return f"{seconds * 1000:.3g}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = int(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days} day{'s' if days > 1 else ''}" + (f" {hours}h" if hours and days < 3 else "")
    larger, smaller = ((hours, "h"), (minutes, "m")) if hours else ((minutes, "m"), (rest, "s"))
    return f"{larger[0]}{larger[1]}" + (f" {smaller[0]}{smaller[1]}" if smaller[0] else "")


def octets(number: float) -> str:
    """A size: `812`, `4.5k`, `200m`, `1.2g`, in powers of 1024 as in SET."""
    for unit in ("", "k", "m"):
        if abs(number) < 1024:
            return f"{number:.3g}{unit}" if unit else f"{number:g}"
        number /= 1024
    return f"{number:.4g}g"


def moment(at: float, now: float) -> str:
    """A time of day, or a date if it was long ago; and how long ago."""
    form = "%H:%M:%S" if abs(now - at) < 43200 else "%Y-%m-%d %H:%M:%S"
    ago = f"{duration(int(now - at))} ago" if now >= at else f"in {duration(int(at - now))}"
    return f"{strftime(form, localtime(at))} ({ago})"


def clean(text: str) -> str:
    """A text that writes nothing but itself to a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def cell(value: object, unit: Unit | None, view: View) -> str:
    """A value as it stands in a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if unit is Unit.SECONDS:
            return duration(value)
        if unit is Unit.MILLISECONDS:
            return duration(value / 1000)
        if unit is Unit.OCTETS or isinstance(value, Octets):
            return octets(value)
        if unit is Unit.MOMENT:
            return moment(value, view.now)
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}:{cell(each, None, view)}" for key, each in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(each, None, view) for each in value) or "-"
    return clean(str(value))


def columns_of(text: str) -> int:
    """How many columns a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    blanks = " " * (width - columns_of(text))
    return blanks + text if right else text + blanks


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], units: Mapping[str, Unit], view: View) -> Iterator[str]:
    """A header, and a line or more for each row."""
    rows = iter(rows)
    first = list(islice(rows, PIECE))
    if not first:
        yield NOTHING
        return
    kinds = [units.get(column.rpartition(".")[2]) for column in columns]
    titles = [column.replace("_", " ").replace(".", " ").upper() for column in columns]
    heads = [titles]
    right = [kinds[place] is not None or _is_numeric([row[place] for row in first]) for place in range(len(columns))]
    cells = [[cell(value, kind, view) for value, kind in zip(row, kinds, strict=True)] for row in first]
    widths = _widths(titles, cells)
    before = sum(widths[:-1]) + len(GAP) * (len(columns) - 1)
    if before + min(NARROWEST, widths[-1]) > view.width:
        heads = _stacked(titles)
        widths = _widths([max(title.split(), key=len) for title in titles], cells)
        _slim(widths, cells, view.width - len(GAP) * (len(columns) - 1))
        before = sum(widths[:-1]) + len(GAP) * (len(columns) - 1)
    room = max(NARROWEST, view.width - before)
    others = ([cell(value, kind, view) for value, kind in zip(row, kinds, strict=True)] for row in rows)
    for line in chain(heads, cells, others):
        head = "".join(_padded(text, width, aside) + GAP for text, width, aside in zip(line[:-1], widths[:-1], right[:-1], strict=True))
        last = _padded(line[-1], widths[-1], True) if right[-1] else line[-1]
        if columns_of(head) + columns_of(last) <= max(view.width, before + NARROWEST):
            yield (head + last).rstrip()
            continue
        folded = wrap(last, room, break_on_hyphens=False)
        if columns_of(head) > before:  # something in it is wider than its column
            folded.insert(0, "")
        yield (head + folded[0]).rstrip()
        yield from (" " * before + more for more in folded[1:])


def _widths(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [min(WIDEST, max(columns_of(line[place]) for line in (titles, *cells))) for place in range(len(titles))]


def _stacked(titles: Sequence[str]) -> list[list[str]]:
    """Titles with a word a line, the last words in the last line."""
    words = [title.split() for title in titles]
    lines = max(map(len, words))
    filled = [[""] * (lines - len(each)) + each for each in words]
    return [[each[line] for each in filled] for line in range(lines)]


def _slim(widths: list[int], cells: Sequence[Sequence[str]], room: int) -> None:
    """Take columns from where the fewest values become too wide, until the last one has its room too."""
    lengths = [sorted(columns_of(line[place]) for line in cells) for place in range(len(widths) - 1)]
    least = [min(width, SLIMMEST) for width in widths]
    excess = sum(widths[:-1]) + min(NARROWEST, widths[-1]) - room
    for _ in range(excess):
        able = [place for place in range(len(lengths)) if widths[place] > least[place]]
        if not able:
            return
        place = min(able, key=lambda each: (len(cells) - bisect_right(lengths[each], widths[each] - 1), -widths[each]))
        widths[place] -= 1


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numeric(values: Sequence[object]) -> bool:
    """Whether a column has numbers, and nothing else beside gaps."""
    return any(map(_is_number, values)) and all(value is None or _is_number(value) for value in values)


def facts(values: Mapping[str, object], units: Mapping[str, Unit], view: View) -> Iterator[str]:
    """Names and values below each other; then each value that has parts, under its name."""
    plain = {name: value for name, value in values.items() if not _has_parts(value)}
    width = max((columns_of(name) for name in plain), default=0)
    for name, value in plain.items():
        text = cell(value, units.get(name), view)
        lines = wrap(text, max(NARROWEST, view.width - width - len(GAP)), break_on_hyphens=False) or [text]
        yield f"{_padded(name, width, False)}{GAP}{lines[0]}"
        yield from (" " * width + GAP + more for more in lines[1:])
    if not values:
        yield NOTHING
    within = View(max(NARROWEST, view.width - len(GAP)), view.now)
    for name, value in values.items():
        if not _has_parts(value):
            continue
        yield from ("", name) if plain else (name,)
        if isinstance(value, Mapping):
            yield from (GAP + line for line in facts(value, units, within))
        elif isinstance(value, (list, tuple)):
            yield from (GAP + line for line in records(value, (), units, within))


def _has_parts(value: object) -> bool:
    """Whether a value takes lines of its own: names and values, or a table."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(each, Mapping) for each in value)


def records(values: Iterable[Mapping[str, object]], columns: Sequence[str], units: Mapping[str, Unit], view: View) -> Iterator[str]:
    """A table of records. A column `a.b` is a member of a member. Without `columns` it has those of the first PIECE records."""
    values = iter(values)
    if not columns:
        first = list(islice(values, PIECE))
        columns = list(dict.fromkeys(name for record in first for name in record))
        values = chain(first, values)
    yield from table(columns, ([_member(record, name) for name in columns] for record in values), units, view)


def _member(record: Mapping[str, object], name: str) -> object:
    outer, dot, inner = name.partition(".")
    value = record.get(outer)
    if not dot:
        return value
    return value.get(inner) if isinstance(value, Mapping) else None


def prose(lines: Iterable[str], width: int) -> Iterator[str]:
    """Lines of prose in that width; what is indented stays so."""
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        yield from wrap(clean(line), max(NARROWEST, width), subsequent_indent=indent, break_on_hyphens=False) or [""]
