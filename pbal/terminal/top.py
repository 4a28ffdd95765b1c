"""`top [SECONDS]`: what pbal does at this moment, on one screen.

Everything comes from queries AS JSON, which anybody can ask; what is a rate is the difference of two answers. A query that this pbal
does not answer (a plugin that is not loaded) leaves its part of the screen out.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from pbal.terminal.screen import Screen, printable
from pbal.terminal.watching import SECONDS, SHORTEST, Watching
from pbal.terminal.wire import Console

_QUERIES: Final = {
    "uptime": "uptime AS JSON",
    "counters": "show counters AS JSON",
    "nodes": "show health AS JSON",
    "latency": "show latency AS JSON",
    "errors": "show errors 20 AS JSON",
    "limits": "show limits AS JSON",
}
_PACE: Final = "/s"
FIGURES: Final = (
    ("requests", "requests", _PACE), ("parked", "poll_parked", ""), ("clients", "clients", ""),
    ("connections", "connections", _PACE), ("polls", "poll_parked_ever", _PACE), ("loop lag", "loop_lag_ms", " ms"),
    ("retries", "backend_retries", _PACE), ("published", "poll_published", _PACE), ("worst lag", "loop_lag_max_ms", " ms"),
)  # fmt: skip
"""What is shown first: what it is called, the counter, and its unit; of what counts a pace, how fast it rises."""
BAD: Final = ("bad_requests", "backend_errors", "backend_unavailable", "backend_timeouts", "plugin_errors", "aborted_clients")
"""Counters of what went wrong, in the order in which they are shown."""
_NEARLY: Final = 80
"""Per cent from which on a limit is shown."""
_FAILURES: Final = 4
"""Lines of them."""
_WRAPS: Final = frozenset({"failures kept"})
"""What is meant to be full."""
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


def rate(now: Sample, before: Sample | None, name: str) -> float:
    """How fast a counter rises; see _pace."""
    return _pace(now.facts("counters"), before.facts("counters"), name, now.at - before.at) if before is not None else 0.0


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
    """The lines of the screen, at most `height`. Where there is no room, the longest lists are cut."""
    uptime = now.facts("uptime")
    lines = [
        paint(f"pbal {uptime.get('version', '')} {title}, up {span(float(uptime.get('uptime', 0)))}", _BOLD),
        "",
        *_figures(now, before),
    ]
    parts = [part for part in (_went_wrong(now, before, paint), _full(now, paint), _failures(now, paint)) if part]
    lists = [part for part in (_nodes(now, before, paint), _services(now, before, paint)) if part]
    for part in parts:
        lines += ["", *part]
    for place, part in enumerate(lists):
        room = (height - len(lines)) // (len(lists) - place) - 1
        if room >= 2:
            lines += ["", *part[:room]]
            if len(part) > room:
                lines[-1] = f"... {len(part) - room + 1} more"
    return lines[:height]


def _figures(now: Sample, before: Sample | None) -> list[str]:
    counts = now.facts("counters")
    shown = [
        f"{label:<12}{number(counts.get(name, 0)) + unit if unit != _PACE else number(rate(now, before, name)) + unit:>12}"
        for label, name, unit in FIGURES
    ]
    return ["   ".join(shown[row : row + 3]) for row in range(0, len(shown), 3)]


def _went_wrong(now: Sample, before: Sample | None, paint: Paint) -> list[str]:
    """What has gone wrong since the start, and how fast it goes on."""
    counts = now.facts("counters")
    lines = []
    for name in BAD:
        if counts.get(name):
            pace = rate(now, before, name)
            lines.append(paint(f"{name.replace('_', ' '):<40}{number(pace):>10}{number(counts[name]):>14}", _RED if pace else ""))
    return [paint(f"{'WENT WRONG':<40}{'A SECOND':>10}{'SINCE START':>14}", _BOLD), *lines] if lines else []


def _full(now: Sample, paint: Paint) -> list[str]:
    """What is nearly full."""
    near = [each for each in now.objects("limits") if isinstance(each.get("percent"), (int, float)) and each["percent"] >= _NEARLY]
    return [
        paint(
            printable(f"{each.get('what')} {each.get('where') or ''}".strip())
            + f": {number(each.get('value', 0))} of {number(each.get('limit', 0))} ({each['percent']} %), then {each.get('then')}",
            _RED,
        )
        for each in near
        if each.get("what") not in _WRAPS
    ]


def _failures(now: Sample, paint: Paint) -> list[str]:
    """The last requests that failed, the newest first; those that are the same in one line."""
    lines = []
    for text, alike in groupby(reversed(now.objects("errors")), _failure):
        newest, *others = alike
        at = time.strftime("%H:%M:%S", time.localtime(newest["at"])) if isinstance(newest.get("at"), (int, float)) else ""
        lines.append(printable(f"{at} {text}" + (f"  (and {len(others)} before)" if others else "")))
    return [paint("LAST FAILURES", _BOLD), *lines[:_FAILURES]] if lines else []


def _failure(each: Object) -> str:
    where = f"{each.get('service') or ''} {each.get('node') or ''}".strip()
    return f"{each.get('status')} {each.get('method')} {each.get('target')}  {where}  {each.get('why') or ''}"


def _nodes(now: Sample, before: Sample | None, paint: Paint) -> list[str]:
    """A line for each node: first those that are down or fail, then those that have most to do."""
    earlier = _named(before, "nodes", "pool", "node")
    seconds = now.at - before.at if before is not None else 0.0
    rows: list[tuple[bool, float, float, str]] = []
    for node in now.objects("nodes"):
        was = earlier.get((node.get("pool"), node.get("node")), {})
        pace = _pace(node, was, "requests", seconds)
        failing = _pace(node, was, "errors", seconds) + _pace(node, was, "failures", seconds)
        down = node.get("state") not in ("UP", "UNTRIED")
        text = f"{printable(str(node.get('node'))):<28}{printable(str(node.get('state'))):<12}{number(pace):>10}"
        text += f"{number(node.get('active') or 0):>10}{number((node.get('errors') or 0) + (node.get('failures') or 0)):>10}"
        if down or failing:
            text += "  " + printable(str(node.get("why") or node.get("error") or ""))
        rows.append((not down, -failing, -pace, paint(text, _RED if down or failing else "")))
    if not rows:
        return []
    header = paint(f"{'NODE':<28}{'STATE':<12}{'A SECOND':>10}{'ACTIVE':>10}{'ERRORS':>10}", _BOLD)
    return [header, *(text for *_, text in sorted(rows, key=lambda row: row[:3]))]


def _services(now: Sample, before: Sample | None, paint: Paint) -> list[str]:
    """A line for each service that answers: how often, and how long it took in the last minute."""
    earlier = _named(before, "latency", "kind", "name")
    seconds = now.at - before.at if before is not None else 0.0
    rows: list[tuple[float, str]] = []
    for each in now.objects("latency"):
        if each.get("kind") == "service":
            pace = _pace(each, earlier.get(("service", each.get("name")), {}), "count", seconds)
            times = [each.get(f"minute_{share}") for share in ("p50", "p90", "p99")]
            shown = "".join(f"{'-' if not isinstance(figure, (int, float)) else f'{figure:g} ms':>12}" for figure in times)
            rows.append((-pace, f"{printable(str(each.get('name'))):<40}{number(pace):>10}{shown}"))
    if not rows:
        return []
    return [paint(f"{'SERVICE':<40}{'A SECOND':>10}{'P50':>12}{'P90':>12}{'P99':>12}", _BOLD), *(text for _, text in sorted(rows))]


def _named(sample: Sample | None, answer: str, *names: str) -> dict[tuple[Any, ...], Object]:
    """The objects of an answer by what they are called."""
    return {tuple(each.get(name) for name in names): each for each in sample.objects(answer)} if sample is not None else {}


def _pace(now: Object, was: Object, name: str, seconds: float) -> float:
    """How fast a number rises; 0 where it was not known before, or began anew."""
    last, first = now.get(name), was.get(name)
    if not isinstance(last, (int, float)) or not isinstance(first, (int, float)) or seconds <= 0 or last < first:
        return 0.0
    return (last - first) / seconds


def top(console: Console, screen: Screen, rest: str, watching: Watching) -> None:
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

    watching.again_and_again(screen, seconds, lines)
