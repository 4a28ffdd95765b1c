"""The status page: how pbal is, on one page, for who has no console open.

It is made here whole, so that it can be read without JavaScript; with it, status.js puts a new middle in every few seconds. Each
section is a statement of the console, carried out as if typed AS JSON, and the columns of its records that are shown. A section whose
statement is not there (a plugin that is not loaded) or that has no records is left out. Lists are cut, and say what was left out: the
console has all of it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pbal import __version__
from pbal.commands.session import Session
from pbal.console.history import SAMPLES, History
from pbal.console.markup import chart, number, shown, table
from pbal.console.readiness import unwell, why_not_ready
from pbal.lang.mistakes import Mistake
from pbal.schema.commands import Reply
from pbal.schema.people import Unit, duration

MOST_ROWS: Final = 100
PIECE: Final = 100
"""Records read in one turn of the loop."""

Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Section:
    """What is shown of a statement's records."""

    title: str
    rule: str
    """Of the grammar: where it is missing, so is the section."""
    statement: str
    columns: tuple[str, ...]
    most: int = MOST_ROWS
    half: bool = False
    """Whether it is narrow enough to have another beside it."""
    newest_first: bool = False
    """Whether the last record is to be the first here."""
    nothing: str = ""
    """What stands there when there are no records; '': the section is left out."""


SECTIONS: Final = (
    Section("Services", "show_service", "show service", ("name", "state", "role", "listen"), half=True),
    Section("Parked polls", "show_parked_summary", "show parked summary", ("service", "parked", "queues", "oldest", "bytes"), half=True),
    Section(
        "Nodes", "show_health", "show health",
        (
            "pool", "node", "state", "since", "why", "by", "used", "check", "active", "requests", "errors", "failures", "ejections",
            "last_success", "error", "error_age",
        ),
    ),
    Section(
        "Latency", "show_latency", "show latency",
        ("kind", "pool", "name", "count", "p50", "p90", "p99", "minute_count", "minute_p50", "minute_p90", "minute_p99"),
    ),
    Section(
        "Recent errors", "show_errors", "show errors 20",
        ("at", "status", "service", "method", "target", "client", "node", "end", "phase", "attempts", "seconds", "why", "octet", "place"),
        newest_first=True, nothing="none",
    ),
    Section("Limits", "show_limits", "show limits", ("what", "where", "value", "limit", "percent", "then")),
    Section(
        "Stores", "show_store", "show store",
        ("service", "store", "state", "since", "median_ms", "p99_ms", "lag_ms", "errors", "last_error", "detail"),
    ),
    Section(
        "Parked polls that end next", "show_parked", "show parked LIMIT 15",
        ("id", "service", "queues", "client", "age", "left", "looks", "transport"),
    ),
)  # fmt: skip


class Status:
    """That of one connection."""

    def __init__(self, session: Session, history: History, reply: Callable[[str], Awaitable[Reply | None]]) -> None:
        self._session = session
        self._history = history
        self._reply = reply

    async def whole(self) -> bytes:
        """The page."""
        return (
            "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>\n<meta name='color-scheme' content='light dark'>\n"
            "<title>pbal</title>\n<link rel='icon' href='data:,'>\n<link rel='stylesheet' href='/status.css'>\n"
            "<script src='/status.js' defer></script>\n<noscript><meta http-equiv='refresh' content='5'></noscript>\n</head>\n<body>\n"
            "<header><h1>pbal</h1><p id='age'></p></header>\n<main>\n"
            f"{await self._middle()}</main>\n<footer><p><a href='/metrics'>metrics</a> "
            "<a href='/socks'>sockets</a> <a href='/obj'>objects</a></p></footer>\n</body>\n</html>\n"
        ).encode("utf-8", "replace")

    async def middle(self) -> bytes:
        """What is in it, and changes."""
        return (await self._middle()).encode("utf-8", "replace")

    async def _middle(self) -> str:
        parts = [self._head(), self._charts()]
        for section in SECTIONS:
            parts.append(await self._section(section))
            await asyncio.sleep(0)
        return "".join(parts)

    def _head(self) -> str:
        world = self._session.world
        counts = world.counters.counts
        why = why_not_ready(world)
        facts = (
            ("version", __version__),
            ("up", duration(int(world.clock.now() - world.started_at))),
            ("clients", number(len(world.clients))),
            ("backends", number(len(world.backends))),
            ("requests", number(counts["requests"])),
            ("answered 502, 503, 504", number(counts["backend_errors"] + counts["backend_unavailable"] + counts["backend_timeouts"])),
        )
        state = f"<p class='state bad'>{shown(why)}</p>" if why else "<p class='state good'>ready</p>"
        state += "".join(f"<p class='state bad'>{shown(line)}</p>" for line in unwell(world))
        told = "".join(f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in facts)
        return f"<section class='facts'>{state}<dl>{told}</dl></section>\n"

    def _charts(self) -> str:
        samples = self._history.samples
        drawn = chart("Requests", "a second", [each.requests for each in samples], SAMPLES)
        drawn += chart("Parked", "polls", [each.parked for each in samples], SAMPLES)
        stores = [each.store_lag for each in samples]
        drawn += chart("Lag of the loop", "ms", [each.lag for each in samples], SAMPLES, stores, "of the stores")
        return f"<section class='charts'>\n{drawn}</section>\n"

    async def _section(self, section: Section) -> str:
        if section.rule not in self._session.interpreter.language.rules:
            return ""
        try:
            records, more, units = await self._records(section)
        except Mistake as mistake:
            return f"<section><h2>{shown(section.title)}</h2><p class='bad'>{shown(mistake.in_one_line())}</p></section>\n"
        if not records and not section.nothing:
            return ""
        said = (
            table(section.columns, records, units, self._session.world.clock.epoch())
            if records
            else f"<p class='more'>{shown(section.nothing)}</p>\n"
        )
        kind = " class='half'" if section.half else ""
        return f"<section{kind}><h2>{shown(section.title)}</h2>\n{said}{_left_out(more, 'more')}</section>\n"

    async def _records(self, section: Section) -> tuple[Sequence[Record], int, Mapping[str, Unit]]:
        """The records of a statement, cut; how many more there are; and what their numbers count."""
        reply = await self._reply(section.statement)
        lines: list[str] = []
        if reply is not None:
            for count, line in enumerate(reply.as_json(), 1):
                lines.append(line)
                if count % PIECE == 0:
                    await asyncio.sleep(0)
        found = json.loads("".join(lines)) if lines else []
        records = found if isinstance(found, list) else [found]
        if section.newest_first:
            records.reverse()
        return records[: section.most], len(records) - section.most, getattr(reply, "units", {})


def _left_out(count: int, what: str) -> str:
    return f"<p class='more'>and {count:,} {shown(what)}: the console has all of them</p>\n" if count > 0 else ""
