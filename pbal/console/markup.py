"""Text and values as pieces of a page. Everything that comes from elsewhere goes through `shown`."""

from collections.abc import Mapping, Sequence
from html import escape as html_escape
from typing import Final

from pbal.observe.log import escape
from pbal.schema import people
from pbal.schema.people import Unit, View

LONGEST: Final = 300
"""Characters of a cell."""
LONG: Final = 30
"""Characters from which on a cell needs room of its own."""

_GOOD: Final = frozenset({"up", "enabled", "ok", "ready"})
_BAD: Final = frozenset({"down", "disabled", "full"})
_UNSURE: Final = frozenset({"drain", "maint", "removed", "untried", "paused"})
_TITLES: Final = {
    "at": "when", "lag_ms": "lag, ms", "sweep_ms": "sweep, ms", "error_age": "ago", "minute_count": "last minute",
    "minute_p50": "p50", "minute_p90": "p90", "minute_p99": "p99", "percent": "%",
}  # fmt: skip
"""Of columns whose names do not tell enough, or too much."""
FULL: Final = 90.0
FILLING: Final = 75.0
"""Per cent of a limit that is worth a colour."""


def shown(text: str) -> str:
    """Text for a page: no markup, no control characters."""
    return html_escape(escape(text))


def number(value: float) -> str:
    """`1234567` is `1,234,567`; of what is no whole number three digits count."""
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(columns: Sequence[str], records: Sequence[Mapping[str, object]], units: Mapping[str, Unit], now: float) -> str:
    """A table of records: the columns in this order, those that no record has left out. `now`: seconds since 1970."""
    present = [column for column in columns if any(record.get(column) is not None for record in records)]
    numeric = {column for column in present if all(_is_number(record.get(column)) for record in records)}
    head = "".join(
        f"<th scope='col'{_right(column in numeric)}>{shown(_TITLES.get(column) or column.replace('_', ' '))}</th>" for column in present
    )
    rows: list[str] = []
    for record in records:
        cells = (_cell(each, record.get(each), words(record.get(each), units.get(each), now), each in numeric) for each in present)
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    return f"<div class='wide'><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table></div>\n"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _right(wanted: bool) -> str:
    return " class='number'" if wanted else ""


def _cell(column: str, value: object, text: str, numeric: bool) -> str:
    kind = text.lower()
    name = "number" if numeric else ""
    if column == "state":
        name = "good" if kind in _GOOD else "bad" if kind in _BAD else "unsure" if kind in _UNSURE else ""
    elif column == "percent" and isinstance(value, (int, float)) and value >= FILLING:
        name = "number bad" if value >= FULL else "number unsure"
    elif len(text) > LONG:
        name = "long"
    cut = text if len(text) <= LONGEST else text[:LONGEST] + "..."
    return f"<td{f' class={chr(39)}{name}{chr(39)}' if name else ''}>{shown(cut)}</td>"


def words(value: object, unit: Unit | None, now: float) -> str:
    """A value as people say it."""
    if unit is None and _is_number(value) and isinstance(value, (int, float)):
        return number(value)
    return people.cell(value, unit, View(0, now))


def chart(title: str, unit: str, values: Sequence[float], most: int, other: Sequence[float] = (), other_title: str = "") -> str:
    """A card with the last value, and a line of all of them; `most` fit into its width, the newest is at the right.

    `other` are drawn on the same scale, as a second line, where any of them is not 0.
    """
    now = values[-1] if values else 0
    highest = max((*values, *other), default=0)
    drawn = ""
    if values:
        points = _points(values, most, highest)
        first = points.partition(",")[0]
        drawn = f"<path class='area' d='M{first},100 L{points.replace(' ', ' L')} L600,100 Z'/><polyline class='line' points='{points}'/>"
    beside = ""
    if any(other):
        drawn += f"<polyline class='line other' points='{_points(other, most, highest)}'/>"
        beside = f" <span class='other'>{shown(other_title)} <strong>{number(other[-1])}</strong> <small>{shown(unit)}</small></span>"
    said = f"{title}: {number(now)} {unit} now, at most {number(highest)} in ten minutes"
    return (
        f"<figure class='card'>\n<figcaption>{shown(title)} <strong>{number(now)}</strong> <small>{shown(unit)}</small>{beside}"
        "</figcaption>\n"
        f"<svg viewBox='0 0 600 100' preserveAspectRatio='none' role='img' aria-label='{shown(said)}'>"
        f"<line class='grid' x1='0' x2='600' y1='6' y2='6'/><line class='grid' x1='0' x2='600' y1='98' y2='98'/>{drawn}</svg>\n"
        f"<p class='axis'><span>10 min ago</span><span>at most {number(highest)} {shown(unit)}</span><span>now</span></p>\n</figure>\n"
    )


def _points(values: Sequence[float], most: int, highest: float) -> str:
    """Of a polyline, in a field of 600 by 100."""
    step = 600 / (most - 1)
    return " ".join(
        f"{600 - (len(values) - 1 - place) * step:.1f},{98 - (value / highest * 92 if highest else 0):.1f}"
        for place, value in enumerate(values)
    )
