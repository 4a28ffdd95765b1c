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
from pbal.console.markup import chart, duration, number, shown, table
from pbal.console.readiness import why_not_ready
from pbal.lang.mistakes import Mistake
from pbal.schema.commands import Reply

MOST_POOLS: Final = 50
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


SERVICES: Final = Section("Services", "show_service", "show service", ("name", "role", "listen", "state"), half=True)
SECTIONS: Final = (
    Section("Parked polls", "show_parked_summary", "show parked summary", ("service", "parked", "queues", "oldest", "bytes"), half=True),
    Section(
        "Waiting longest", "show_parked", "show parked LIMIT 15", ("id", "service", "queues", "client", "age", "left", "looks", "transport")
    ),
    Section("Stores", "show_store", "show store", ("service", "store", "state", "lag_ms", "sweep_keys", "sweep_ms", "watch", "detail")),
)


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
        parts.append(await self._section(SERVICES))
        parts.append(await self._pools())
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
            ("up", duration(world.clock.now() - world.started_at)),
            ("clients", number(len(world.clients))),
            ("backends", number(len(world.backends))),
            ("requests", number(counts["requests"])),
            ("answered 502, 503, 504", number(counts["backend_errors"] + counts["backend_unavailable"] + counts["backend_timeouts"])),
        )
        state = f"<p class='state bad'>{shown(why)}</p>" if why else "<p class='state good'>ready</p>"
        told = "".join(f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in facts)
        return f"<section class='facts'>{state}<dl>{told}</dl></section>\n"

    def _charts(self) -> str:
        samples = self._history.samples
        drawn = chart("Requests", "a second", [each.requests for each in samples], SAMPLES)
        drawn += chart("Parked", "polls", [each.parked for each in samples], SAMPLES)
        drawn += chart("Lag of the loop", "ms", [each.lag for each in samples], SAMPLES)
        return f"<section class='charts'>\n{drawn}</section>\n"

    async def _pools(self) -> str:
        """A table a pool."""
        parts: list[str] = []
        pools = list(self._session.world.pools.values())
        for pool in pools[:MOST_POOLS]:
            section = Section(
                f"Pool {pool.name}", "show_pool", f"show pool {pool.name}", ("node", "state", "requests", "active"), half=True
            )
            parts.append(await self._section(section))
            await asyncio.sleep(0)
        return "".join(parts) + _left_out(len(pools) - MOST_POOLS, "pools")

    async def _section(self, section: Section) -> str:
        if section.rule not in self._session.interpreter.language.rules:
            return ""
        try:
            records, more = await self._records(section)
        except Mistake as mistake:
            return f"<section><h2>{shown(section.title)}</h2><p class='bad'>{shown(mistake.in_one_line())}</p></section>\n"
        if not records:
            return ""
        said = table(section.columns, records)
        kind = " class='half'" if section.half else ""
        return f"<section{kind}><h2>{shown(section.title)}</h2>\n{said}{_left_out(more, 'more')}</section>\n"

    async def _records(self, section: Section) -> tuple[Sequence[Record], int]:
        """The records of a statement, cut, and how many more there are."""
        reply = await self._reply(section.statement)
        lines: list[str] = []
        if reply is not None:
            for count, line in enumerate(reply.as_json(), 1):
                lines.append(line)
                if count % PIECE == 0:
                    await asyncio.sleep(0)
        found = json.loads("".join(lines)) if lines else []
        records = found if isinstance(found, list) else [found]
        return records[: section.most], len(records) - section.most


def _left_out(count: int, what: str) -> str:
    return f"<p class='more'>and {count:,} {shown(what)}: the console has all of them</p>\n" if count > 0 else ""
