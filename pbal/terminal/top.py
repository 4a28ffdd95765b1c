"""`top [SECONDS]`: what pbal does at this moment, on one screen.

Everything comes from queries AS JSON, which anybody can ask; what is a rate is the difference of two answers. A query that this pbal
does not answer (a plugin that is not loaded) leaves its part of the screen out.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pbal.terminal.screen import Screen, printable
from pbal.terminal.watching import SECONDS, SHORTEST, again_and_again
from pbal.terminal.wire import Console

_QUERIES: Final = {
    "uptime": "uptime AS JSON",
    "counters": "show counters AS JSON",
    "nodes": "nodes AS JSON",
}
_BAD: Final = ("bad_requests", "backend_errors", "backend_unavailable", "backend_timeouts", "plugin_errors", "aborted_clients")
"""Counters of what went wrong, in the order in which they are shown."""
_RED: Final = "31"
_BOLD: Final = "1"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was answered at one moment."""

    at: float
    """Seconds; only differences mean something."""
    answers: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, name: str) -> Object:
        """An answer that is one object; empty where there is none."""
        found = self.answers.get(name)
        return found if isinstance(found, dict) else {}

    def objects(self, name: str) -> list[Object]:
        """An answer that is a list of objects; empty where there is none."""
        found = self.answers.get(name)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def sample(console: Console) -> Sample:
    """Ask everything. Raises: Lost."""
    answers: dict[str, Any] = {}
    for name, statement in _QUERIES.items():
        answer = console.ask(statement)
        lines = list(answer)
        if not answer.refused:
            try:
                answers[name] = json.loads("\n".join(lines))
            except ValueError:
                continue
    return Sample(time.monotonic(), answers)


def rate(now: Sample, before: Sample | None, value: Callable[[Sample], Any]) -> float:
    """How much a number that only rises rose in a second; 0 where it was not known before, or began anew."""
    if before is None or now.at <= before.at:
        return 0.0
    last, first = value(now), value(before)
    if not isinstance(last, (int, float)) or not isinstance(first, (int, float)) or last < first:
        return 0.0
    return (last - first) / (now.at - before.at)


def number(value: float) -> str:
    """With commas; small ones with a decimal."""
    return f"{value:,.1f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


def span(seconds: float) -> str:
    """'3 days 2 h', '2 h 5 min', '4 min 3 s', '12 s'."""
    whole = int(seconds)
    for size, name, small, part in ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            count = whole // size
            return f"{count} {'day' if name == 'days' and count == 1 else name} {whole % size // small} {part}"
    return f"{whole} s"


Paint = Callable[[str, str], str]


def view(now: Sample, before: Sample | None, title: str, paint: Paint, height: int) -> list[str]:
    """The lines of the screen. Parts come in the order in which somebody in trouble looks at them; nodes are cut first."""
    uptime = now.facts("uptime")
    lines = [paint(f"pbal {uptime.get('version', '')} {title}, up {span(float(uptime.get('uptime', 0)))}", _BOLD), ""]
    lines += _figures(now, before, paint)
    lines += ["", *_errors(now, before, paint)]
    room = height - len(lines) - 2
    nodes = _nodes(now, before, paint)
    if nodes and room > 1:
        lines += ["", *nodes[:room]]
        if len(nodes) > room:
            lines[-1] = f"... {len(nodes) - room + 1} nodes more"
    return lines


def _figures(now: Sample, before: Sample | None, paint: Paint) -> list[str]:
    counts = now.facts("counters")

    def per_second(name: str) -> str:
        return number(rate(now, before, lambda sample: sample.facts("counters").get(name))) + "/s"

    def level(name: str) -> str:
        return number(counts.get(name, 0))

    figures = [
        ("requests", per_second("requests")), ("parked", level("poll_parked")), ("clients", level("clients")),
        ("connections", per_second("connections")), ("polls", per_second("polls")), ("loop lag", level("loop_lag_ms") + " ms"),
        ("retries", per_second("backend_retries")), ("published", per_second("poll_published")),
        ("worst lag", level("loop_lag_max_ms") + " ms"),
    ]  # fmt: skip
    return ["   ".join(f"{name:<12}{value:>12}" for name, value in figures[row : row + 3]) for row in range(0, len(figures), 3)]


def _errors(now: Sample, before: Sample | None, paint: Paint) -> list[str]:
    counts = now.facts("counters")
    lines = [paint(f"{'ERRORS':<28}{'A SECOND':>10}{'SINCE START':>14}", _BOLD)]
    for name in _BAD:
        if name in counts:
            pace = rate(now, before, lambda sample, name=name: sample.facts("counters").get(name))  # type: ignore[misc]
            lines.append(paint(f"{name.replace('_', ' '):<28}{number(pace):>10}{number(counts[name]):>14}", _RED if pace else ""))
    return lines


def _nodes(now: Sample, before: Sample | None, paint: Paint) -> list[str]:
    """A line for each node; those that fail stand first, then those that have most to do."""
    earlier = {str(node.get("node")): node for node in before.objects("nodes")} if before is not None else {}
    seconds = now.at - before.at if before is not None else 0.0
    rows: list[tuple[float, float, str]] = []
    for node in now.objects("nodes"):
        name = str(node.get("node"))
        was = earlier.get(name, {})
        pace = _pace(node, was, "requests", seconds)
        failing = _pace(node, was, "failures", seconds)
        text = f"{printable(name):<28}{number(pace):>10}{number(node.get('active', 0)):>10}{number(node.get('failures', 0)):>14}"
        rows.append((-failing, -pace, paint(text, _RED if failing else "")))
    if not rows:
        return []
    header = paint(f"{'NODE':<28}{'A SECOND':>10}{'ACTIVE':>10}{'FAILURES':>14}", _BOLD)
    return [header, *(text for _, _, text in sorted(rows, key=lambda row: row[:2]))]


def _pace(node: Object, was: Object, name: str, seconds: float) -> float:
    """How fast a number of a node rises."""
    now, before = node.get(name), was.get(name)
    if not isinstance(now, (int, float)) or not isinstance(before, (int, float)) or seconds <= 0 or now < before:
        return 0.0
    return (now - before) / seconds


def top(console: Console, screen: Screen, rest: str, reconnect: Callable[[], None]) -> None:
    """The live view. Raises: NoConsole, Lost."""
    if rest and not re.fullmatch(r"[0-9]+(\.[0-9]+)?s?", rest):
        screen.say("top [SECONDS], for example: top 5", "33")
        return
    seconds = max(SHORTEST, float(rest.removesuffix("s"))) if rest else SECONDS
    last: list[Sample] = []

    def lines() -> Sequence[str]:
        now = sample(console)
        before = last[0] if last else None
        last[:] = [now]
        title = f"at {console.address}, {time.strftime('%H:%M:%S')}, every {seconds:g} s, q ends"
        return view(now, before, title, screen.painted, screen.height)

    again_and_again(screen, seconds, lines, reconnect)
