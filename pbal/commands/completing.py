"""COMPLETE and MARK: what a program that speaks to the console for a person needs, on the port that everybody uses.

COMPLETE answers what could stand where a line stops. The grammar says which key words and which kinds of argument (lang/parser.py,
`completing`); each kind has a source here, which knows the names there are at this moment: services, pools, nodes of the pool that was
said, tunables that the service has, values that the tunable's type proposes. Kinds of a plugin's statements are asked of the
plugin (Plugin.complete). There is no list of statements here, and a statement that comes with a plugin is completed like any other.

It is asked while somebody types, so it costs a bounded time: at most SCANNED names of a kind are looked at, at most MOST are
answered, and the answer says that there are more.

MARK makes answers end with a word that the program chose. Without it the end of an answer is known from what it says: a dot, OK,
ERROR; and a configuration that is printed may hold any of them.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pbal import sources
from pbal.commands.session import Session
from pbal.commands.taking_back import rules_of
from pbal.lang.lexical import written
from pbal.lang.parser import Language
from pbal.lang.parser import Place as InLine
from pbal.model import faults
from pbal.model.conditions import KINDS
from pbal.model.errors import ConfigError
from pbal.model.hooks import HOOKS
from pbal.model.plugin import Plugin
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.world import World
from pbal.schema import people
from pbal.schema.commands import OK, CommandError, Reply, command
from pbal.schema.people import View
from pbal.schema.pools import OF_POOLS, POOL
from pbal.schema.tunables import Tunable

MOST: Final = 200
"""Candidates in one answer."""
MOST_LIVE: Final = 50
"""Of those that live state has by the ten thousand: queues, nodes, services."""
SCANNED: Final = 5000
"""Names of one kind that are looked at: under a millisecond."""

_MARKER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY_WORD = re.compile(r"[A-Z][A-Z_]*")
_LIST = re.compile(r"[^\s,]*\Z")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One word that could stand there."""

    text: str
    kind: str
    help: str = ""


@dataclass(frozen=True)
class Completion(Reply):
    """What could stand where a line stops."""

    column: int
    """1-based, in the line that was sent: where the candidates begin."""
    candidates: tuple[Candidate, ...]
    more: bool

    def as_text(self) -> Iterator[str]:
        """A candidate a line, with its help behind a tab; then '.'."""
        yield from (f"{each.text}\t{each.help}" if each.help else each.text for each in self.candidates)
        yield "."

    def as_table(self, view: View) -> Iterator[str]:
        """Two columns."""
        return people.table(("text", "help"), [(each.text, each.help) for each in self.candidates], {}, view)

    def as_json(self) -> Iterator[str]:
        """One object."""
        found = [{"text": each.text, "kind": each.kind, "help": each.help} for each in self.candidates]
        yield json.dumps({"column": self.column, "more": self.more, "candidates": found})


@dataclass(slots=True)
class _Asked:
    """One question: the line so far, and what was said in it."""

    session: Session
    place: InLine
    word: str
    """What stands there already; candidates begin like it."""
    start: int
    more: bool = False
    """There are more than the answer holds."""

    @property
    def world(self) -> World:
        return self.session.world

    def fits(self, name: str) -> bool:
        """Whether a name begins like what stands there."""
        return name.lower().startswith(self.word.lower())

    def subject(self) -> Service | Pool | None:
        """What a SET is about: the object that was said, or the current one."""
        said = self.place.argument("object_name") or self.place.argument("owner_name")
        if said is None:
            return self.session.current
        try:
            return self.world.object(said)
        except ConfigError:
            return None


# --- sources: a kind of argument to the names there are ------------------------------------------------------

Source = Callable[[_Asked], Iterable[Candidate]]


def _services(asked: _Asked) -> Iterator[Candidate]:
    for each in islice(asked.world.services.values(), SCANNED):
        if not asked.fits(each.name):
            continue
        at = each["listen"]
        yield Candidate(each.name, "service", f"{each.role or 'no role'}{f', {at}' if at is not None else ''}")


def _pools(asked: _Asked) -> Iterator[Candidate]:
    for each in islice(asked.world.pools.values(), SCANNED):
        if not asked.fits(each.name):
            continue
        yield Candidate(each.name, "pool", f"{len(each.nodes)} node{'' if len(each.nodes) == 1 else 's'}")


def _objects(asked: _Asked) -> Iterator[Candidate]:
    """Services and pools; with the '.' behind them where a tunable follows."""
    dotted: bool | None = None
    for each in chain(_services(asked), _pools(asked)):
        dotted = "tunable" in _after(asked, each.text).kinds if dotted is None else dotted
        yield Candidate(f"{each.text}.", each.kind, each.help) if dotted else each


def _after(asked: _Asked, name: str) -> InLine:
    words = [text for _, text in asked.place.said]
    return asked.session.interpreter.language.completing(" ".join([*words, name, ""]))


def _nodes(asked: _Asked) -> Iterator[Candidate]:
    """The nodes of the pool that was said, or of all; none where a new one is asked for."""
    said = asked.place.argument("pool_name")
    if ("", "ADD") in asked.place.said:
        return
    for pool in asked.world.pools.values():
        if said is None or pool.name.lower() == said.lower():
            fitting = (node for node in islice(pool.nodes, SCANNED) if asked.fits(node.name))
            yield from (Candidate(node.name, "node", f"of pool {pool.name}{', down' if node.down else ''}") for node in fitting)


def _rules(asked: _Asked) -> Iterator[Candidate]:
    """Those of the service, in the words that DROP RULE takes."""
    service = asked.world.services.get((asked.place.argument("service_name") or "").lower())
    return (Candidate(rule, "rule") for rule in rules_of(service)) if service is not None else iter(())


def _whom(asked: _Asked) -> Iterator[Candidate]:
    """A service, a pool or a node."""
    return chain(_services(asked), _pools(asked), _nodes(asked))


def _plugins(asked: _Asked) -> Iterator[Candidate]:
    for name, loaded in asked.world.plugins.items():
        yield Candidate(name, "plugin", f"loaded, generation {loaded.generation}")


def _told(tunable: Tunable) -> Candidate:
    return Candidate(tunable.name, "tunable", tunable.summary)


def _tunables(asked: _Asked) -> Iterator[Candidate]:
    """Those of the service's role, or of pools. Without a service: all."""
    subject = asked.subject()
    if ("", "UNSET") in asked.place.said and isinstance(subject, Service):
        yield from (_told(asked.world.tunables[name]) for name in sorted(subject.explicit) if name in asked.world.tunables)
    elif ("", "DEFAULT") in asked.place.said or subject is None:
        yield from map(_told, asked.world.tunables.values())
    elif isinstance(subject, Pool):
        yield from map(_told, POOL)
    else:
        yield from (_told(tunable) for tunable in asked.world.tunables.values() if not subject.role or tunable.fits(subject.role))


def _server_tunables(asked: _Asked) -> Iterator[Candidate]:
    return map(_told, asked.world.server_tunables.values())


def _tunable(asked: _Asked) -> Tunable | None:
    """The tunable whose value is asked for."""
    name = (asked.place.argument("tunable") or asked.place.argument("server_tunable") or "").lower()
    if asked.place.argument("server_tunable"):
        return asked.world.server_tunables.get(name)
    if isinstance(asked.subject(), Pool):
        return OF_POOLS.get(name)
    return asked.world.tunables.get(name)


def _values(asked: _Asked) -> Iterator[Candidate]:
    """What the type proposes, names of what it names, what was said before, the default."""
    tunable = _tunable(asked)
    if tunable is None:
        return
    kind = tunable.type.name
    if tunable.name == "plugins":
        cut = _LIST.search(asked.word)
        asked.start += cut.start() if cut else 0
        asked.word = cut[0] if cut else ""
        yield from _plugins(asked)
        return
    if kind in ("pool", "service"):
        yield from _pools(asked) if kind == "pool" else _services(asked)
        return
    yield from (Candidate(text, "value", "the default" if text == tunable.default else kind) for text in tunable.type.complete())
    subject = asked.subject()
    if isinstance(subject, Service) and tunable.name in subject.explicit:
        yield Candidate(written(subject.explicit[tunable.name]), "value", "as it is now")
    if tunable.default:
        yield Candidate(tunable.default, "value", "the default")


def _switch(asked: _Asked) -> Iterator[Candidate]:
    return (Candidate(text, "value") for text in ("on", "off"))


def _messages(asked: _Asked) -> Iterator[Candidate]:
    return (Candidate(text, "word") for text in ("request", "response"))


def _conditions(asked: _Asked) -> Iterator[Candidate]:
    """What a condition begins with."""
    return (Candidate(kind, "condition") for kind in KINDS)


def _counters(asked: _Asked) -> Iterator[Candidate]:
    """LIKE matches other things in other statements; what a plugin's are called, it says itself."""
    if ("", "COUNTERS") in asked.place.said:
        yield from (Candidate(counter.name, "counter", counter.summary) for counter in asked.world.counters.all.values())


def _topics(asked: _Asked) -> Iterator[Candidate]:
    """What HELP explains."""
    interpreter = asked.session.interpreter
    for usage, rules in sorted(_usages(interpreter.language).items()):
        yield Candidate(" ".join(usage).lower(), "statement", _summary(asked, rules[0]))
    yield from map(_told, asked.world.tunables.values())
    yield from map(_told, asked.world.server_tunables.values())
    yield from (Candidate(hook.name, "hook") for hook in HOOKS.values())
    yield from (Candidate(counter.name, "counter", counter.summary) for counter in asked.world.counters.all.values())


SOURCES: dict[str, Source] = {
    "service_name": _services,
    "selector_name": _services,
    "target_name": _services,
    "pool_name": _pools,
    "object_name": _objects,
    "owner_name": _objects,
    "plugin_name": _plugins,
    "more_plugins": _plugins,
    "node": _nodes,
    "tunable": _tunables,
    "server_tunable": _server_tunables,
    "value": _values,
    "switch": _switch,
    "request_or_response": _messages,
    "conditions": _conditions,
    "glob": _counters,
    "rule": _rules,
    "whom": _whom,
    "words": _topics,
}
"""The core's kinds. Those that are not here are for the operator to think of: names of new things, times, texts."""

_LIVE = frozenset({"service_name", "selector_name", "target_name", "pool_name", "object_name", "owner_name", "node", "whom"})


# --- key words -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _usages(language: Language) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The rules by the key words that their usages begin with."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for rule in sorted(language.rules):
        for usage in language.syntax(rule).split(" | "):
            words = tuple(_leading(usage.split()))
            found[words] = (*found.get(words, ()), rule)
    return found


def _leading(words: list[str]) -> Iterator[str]:
    for word in words:
        if not _KEY_WORD.fullmatch(word):
            return
        yield word


def _summary(asked: _Asked, rule: str) -> str:
    try:
        return asked.session.interpreter.registry.help_for(rule)[0]
    except CommandError:
        return ""


def _words(asked: _Asked) -> Iterator[Candidate]:
    """Key words, with what the statement does where only one begins so, else with what may follow."""
    said = tuple(text for _, text in asked.place.said)
    usages = _usages(asked.session.interpreter.language)
    for word in ("AS JSON" if word == "AS" else word for word in asked.place.literals):
        words = (*said, word)
        rules = {rule for usage, found in usages.items() if usage[: len(words)] == words for rule in found}
        if len(rules) == 1:
            yield Candidate(word, "word", _summary(asked, rules.pop()))
        else:
            nexts = sorted({usage[len(words)].lower() for usage in usages if usage[: len(words)] == words and len(usage) > len(words)})
            yield Candidate(word, "word", ", ".join(nexts))


# --- the question --------------------------------------------------------------------------------------------


def _found(asked: _Asked, installed: Iterable[str]) -> Iterator[Candidate]:
    yield from _words(asked)
    for kind, owner in asked.place.kinds.items():
        source = SOURCES.get(kind)
        if owner:
            source = _of_plugin(owner, kind)
        if source is None:
            continue
        if kind == "plugin_name" and ("", "LOAD") in asked.place.said:
            names = iter([Candidate(name, "plugin") for name in installed])
        else:
            names = iter(source(asked))
        yield from _bounded(asked, names, MOST_LIVE if owner or kind in _LIVE else MOST)


def _bounded(asked: _Asked, names: Iterator[Candidate], most: int) -> Iterator[Candidate]:
    """Those that begin like the word."""
    found = 0
    for each in islice(names, SCANNED):
        if asked.fits(each.text):
            if found == most:
                asked.more = True
                return
            found += 1
            yield each
    asked.more = asked.more or next(names, None) is not None


def _of_plugin(owner: str, kind: str) -> Source:
    """What the plugin itself proposes. SERVICE_NAME and their like are the core's wherever they stand."""

    def source(asked: _Asked) -> Iterator[Candidate]:
        for name in asked.world.plugins:
            if re.sub(r"[^a-z0-9]", "_", name) == owner:
                for _, instance in asked.world.instances(name):
                    yield from (Candidate(text, kind) for text in _asked_of(asked, name, instance, kind))

    return source


def _asked_of(asked: _Asked, name: str, instance: Plugin, kind: str) -> list[str]:
    try:
        return [str(text) for text in islice(instance.complete(kind, asked.word), SCANNED)]
    except faults.CAUGHT as error:
        faults.report(asked.world, name, "complete()", error)
        return []


async def _installed(session: Session) -> list[str]:
    """Plugins that could be loaded. The disk is looked at in a thread; what cannot be read holds none."""
    folder = session.world.server.get("plugin_path")
    folders = [Path(folder)] if folder else []
    try:
        names = (
            await asyncio.get_running_loop().run_in_executor(None, sources.installed, folders)
            if session.live
            else sources.installed(folders)
        )
    except OSError:
        return []
    return [name for name in names if name not in session.world.plugins]


@command
async def complete(session: Session, line: str | None = None) -> Reply:
    """What could stand where LINE stops: key words, names and values, each with its kind and a line of help.

    LINE is one word: what is no letter and no digit may stand in it as in an address, %20 for a space. `column` is where the candidates
    begin. For programs that complete what a person types.
    """
    text = unquote(line or "")
    language = session.interpreter.language
    place = language.completing(text)
    asked = _Asked(session, place, text[place.start :], place.start)
    installed: list[str] = []
    if "plugin_name" in place.kinds and ("", "LOAD") in place.said:
        installed = await _installed(session)
    unique: dict[str, Candidate] = {}
    for each in _found(asked, installed):
        if each.text:
            unique.setdefault(each.text, each)
    return Completion(asked.start + 1, tuple(islice(unique.values(), MOST)), asked.more or len(unique) > MOST)


@command
def mark(session: Session, marker: str) -> Reply:
    """End each answer of this connection with a line of MARKER and what the answer was: ok, list, text or error. For programs.

    MARKER is any word that no answer holds. The dot of a list stands before the line. Empty lines are not answered.
    """
    if not _MARKER.fullmatch(marker):
        raise CommandError("expected 1 to 64 letters, digits, '-' or '_'", "marker")
    session.marker = marker
    return OK


@command
def mark_json(session: Session, marker: str) -> Reply:
    """The same as mark, and every answer but an error is JSON, that of a statement that changes something too. For programs."""
    mark(session, marker)
    session.json = True
    return OK
