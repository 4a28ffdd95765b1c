"""A configuration file: its statements carried out one line after the other, and the list of its mistakes.

A file with mistakes reports all of them. What keeps the list honest is that a mistake does not cause others: after a CREATE or USE that
failed, the statements about that object are only parsed; after a LOAD that failed, what would have come from that plugin is not held
against the file; a service with a mistake is not checked at ENABLE. What the core knows, and what another plugin would add, is told all
the same.
"""

import codecs
import errno
import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pbal.commands.lint import Lint
from pbal.commands.session import Session
from pbal.lang.ast import Statement
from pbal.lang.expand import placed
from pbal.lang.lexical import STRING, unquoted
from pbal.lang.mistakes import Mistake
from pbal.lang.parser import GrammarMistake
from pbal.model.errors import ConfigError
from pbal.schema.commands import CommandError
from pbal.schema.kinds import Kind, Needed
from pbal.schema.said import Said

if TYPE_CHECKING:
    from pbal.commands.interpreter import Interpreter, SlowWork

_ENABLE_LINE = re.compile(r"\s*ENABLE\s+(\S+?)\s*(?:#.*)?", re.IGNORECASE)
_LOAD_LINE = re.compile(r"\s*LOAD\s+([\w-]+)\s*(?:#.*)?", re.IGNORECASE)


def lines_of(path: str) -> list[str]:
    """The lines of a file; octets that are not UTF-8 are refused when their line is read. Raises: OSError."""
    return divided(Path(path).read_bytes())


def octets_of(path: Path) -> bytes:
    """What is in a plain file: a pipe without a writer would hold up whoever opens it. Raises: OSError."""
    if not path.is_file() and path.exists() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no plain file")
    return path.read_bytes()


def divided(data: bytes) -> list[str]:
    """The lines of what is in a file."""
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").split("\n")


def plugins_named(lines: Iterable[str]) -> list[str]:
    """The plugins that LOAD lines name, sorted."""
    return sorted({match[1].lower() for line in lines if (match := _LOAD_LINE.fullmatch(line.rstrip("\r")))})


_PATTERN = re.compile(rf"{STRING}|\S+")
MOST_MISTAKES = 500
"""After so many a file is not read on, unless somebody wants all of them: it is a wrong one, and has as many as lines."""
_MOST_NESTED = 16
"""Files in files."""

_ROLE_FIRST = Needed("set", "role")

_NOUNS = {
    "object_name": ("service", "pool"),
    "service_name": ("service",),
    "selector_name": ("service",),
    "target_name": ("service",),
    "pool_name": ("pool",),
}
"""What may be called by each kind of name."""


def _words(text: str) -> list[str]:
    return text.lower().replace(",", " ").split()


class _Reading:
    """One file that is being read, with its own current object."""

    __slots__ = ("folder", "lines", "name", "number", "parent", "path", "session")

    def __init__(self, name: str, lines: list[str], session: Session, parent: "_Reading | None" = None) -> None:
        self.name = name
        """As it is called in messages."""
        self.path = Path(name).resolve()
        self.folder = self.path.parent
        self.lines = lines
        self.number = 0
        """How many of the lines were read."""
        self.session = session
        self.parent = parent
        """The file that includes it."""


@dataclass(frozen=True, slots=True)
class Record:
    """A statement that was good: in which file, and which object was current after it, in lower case."""

    path: Path
    statement: Statement
    current: str


class FileRun:
    """One pass over a file and those that it includes.

    What was wrong before is known in all of them; the current object is each file's own, as in Perlbal. Who wants it in slices calls `step`
    until it is False, and then `end`.
    """

    def __init__(self, interpreter: "Interpreter", path: str, lines: list[str]) -> None:
        self._interpreter = interpreter
        self.mistakes: list[Mistake] = []
        self.warnings: list[Mistake] = []
        """What is legal and wrong: as far as statements themselves tell it, and after `end` all of it."""
        self.record: list[Record] | None = None
        """Every good statement, for who asks for it by giving a list."""
        self.read: dict[Path, list[str]] = {}
        """The lines of each file, as they were read."""
        self._stack: list[_Reading] = []
        """The files that are being read or will be, the next line of the last one comes next."""
        self._begin(_Reading(path, lines, self._new_session(path)))
        self._lint = Lint(interpreter.world)
        self._awaited: dict[str, Statement] = {}
        """Services that were named before they were made, and where."""
        self._faulty: set[str] = set()
        """Names of objects that a mistake was made about; they are not checked at ENABLE."""
        self._refused: set[tuple[str, str]] = set()
        """What kind of object, and its name: those whose CREATE was refused."""
        self._not_loaded: set[str] = set()
        """Plugins whose LOAD was refused."""
        self._enabled: dict[str, Statement] = {}
        """The ENABLE of each service that was enabled; what is said of it afterwards is checked at the end."""
        self._said_since: set[str] = set()
        self._told_statements = False
        self._roleless: set[str] = set()
        """Services whose SET role was refused; that others of their settings need one is not held against them."""

    def _new_session(self, path: str) -> Session:
        session = Session(self._interpreter.world, self._interpreter, origin=path, verbose=False)
        session.reading = self
        session.warnings = self.warnings
        return session

    def _begin(self, reading: _Reading) -> None:
        self._interpreter.know_plugins(reading.lines)
        self._interpreter.folder = reading.folder
        self.read[reading.path] = reading.lines
        self._stack.append(reading)

    @property
    def _reading(self) -> _Reading:
        return self._stack[-1]

    @property
    def _session(self) -> Session:
        return self._reading.session

    def step(self) -> bool:
        """Carry out the next line. False if there was none."""
        if not self._is_line():
            return False
        reading = self._reading
        reading.number += 1
        self.line(reading.number, reading.lines[reading.number - 1])
        return True

    def _is_line(self) -> bool:
        """Whether there is another line. Files that were read to their end are left."""
        while self._reading.number == len(self._reading.lines):
            if len(self._stack) == 1:
                return False
            self._stack.pop()
            self._interpreter.folder = self._reading.folder
        return True

    def next_plugin(self) -> str:
        """The plugin that the next line loads; "" if it loads none."""
        loads = _LOAD_LINE.fullmatch(self._next_line())
        return loads[1].lower() if loads else ""

    def next_work(self) -> "SlowWork | None":
        """What is to be made in a thread before the next line is carried out."""
        return self._interpreter.slow_work(self._session, self._next_line(), self._reading.folder)

    def _next_line(self) -> str:
        return self._reading.lines[self._reading.number].rstrip("\r") if self._is_line() else ""

    def next_enabled(self) -> str:
        """The service that the next line enables, in lower case; "" if it enables none."""
        enables = _ENABLE_LINE.fullmatch(self._next_line())
        return enables[1].lower() if enables else ""

    def include(self, files: str) -> None:
        """INCLUDE: other files come next, those of each pattern in the order of their names. Raises: CommandError; none is read then."""
        parent = self._reading
        found = [self._included(path, parent) for path in self._named(files, parent.folder)]
        for reading in reversed(found):
            self._begin(reading)

    def _named(self, files: str, folder: Path) -> Iterator[Path]:
        """The files that are meant. A pattern may match none; a name without wildcard is of a file that is there."""
        for said in _PATTERN.findall(files):
            pattern = str(folder / unquoted(said))
            yield from map(Path, sorted(glob.glob(pattern)) if glob.has_magic(unquoted(said)) else [pattern])

    def _included(self, path: Path, parent: _Reading) -> _Reading:
        name = str(path) if os.path.isabs(self._stack[0].name) else os.path.relpath(path)
        chain = [parent]
        while (before := chain[-1].parent) is not None:
            chain.append(before)
        place = path.resolve()
        for length, reading in enumerate(chain, 1):
            if reading.path == place:
                circle = " -> ".join([each.name for each in reversed(chain[:length])] + [name])
                raise CommandError(f"a file cannot include itself: {circle}", "files", kind=Kind.CONFLICT)
        if len(chain) > _MOST_NESTED:
            raise CommandError(f"files include one another more than {_MOST_NESTED} deep", "files", kind=Kind.CONFLICT)
        instead = self._interpreter.instead
        self._interpreter.read_too.add(place)
        try:
            lines = divided(instead[place] if place in instead else octets_of(path))
        except OSError as error:
            raise CommandError(f"cannot read {name}: {error.strerror}", "files", kind=Kind.SYSTEM) from None
        return _Reading(name, lines, self._new_session(name), parent)

    def line(self, number: int, text: str) -> None:
        """Carry out one line."""
        interpreter = self._interpreter
        try:
            statement = interpreter.parse(text, self._reading.name, number)
            if statement is None or self._depends_on_mistake(statement):
                return
            if "${file:" in text and self._reading.folder != self._stack[0].folder:
                self._place_files(statement)
            try:
                interpreter.world.awaited = set()
                interpreter.carry_out_now(self._session, statement)
            except Mistake as mistake:
                self._failed(statement, mistake)
                return
            finally:
                named, interpreter.world.awaited = interpreter.world.awaited, None
            for name in named:
                self._awaited.setdefault(name, statement)
            self._lint.note(statement, self._session.current)
            if statement.rule in ("create_service", "create_pool", "use"):
                self._session.broken = False
            self._note(statement)
        except GrammarMistake as mistake:
            self._report(Mistake(str(mistake), line=number, source=text, file=self._reading.name))
        except Mistake as mistake:
            self._failed_to_parse(mistake, text)

    def _place_files(self, statement: Statement) -> None:
        """In a file of another folder, write ${file:PATH} so that it is found from that of the main file: there it is said again."""
        for arg in statement.args.values():
            if isinstance(arg.text, Said):
                arg.text = Said(arg.text, placed(arg.text.written, self._reading.folder))

    def _note(self, statement: Statement) -> None:
        """A statement was good."""
        current = self._session.current
        if self.record is not None:
            self.record.append(Record(self._reading.path, statement, "" if current is None else current.name.lower()))
        if statement.rule == "enable":
            name = statement["service_name"].lower()
            self._enabled[name] = statement
            self._said_since.discard(name)
            return
        named = {statement.get(kind) for kind in ("object_name", "selector_name")} - {None}
        self._said_since |= {str(name).lower() for name in named} or ({current.name.lower()} if current is not None else set())

    def end(self) -> None:
        """The file ends: whether what was enabled would be enabled as it is now."""
        world = self._interpreter.world
        for selector in world.services.values():
            if selector["default_service"] and selector["default_service"].lower() in world.services:
                selector.values["default_service"] = world.service(selector["default_service"]).name
        for name, statement in self._awaited.items():
            if name.lower() not in world.services and ("service", name.lower()) not in self._refused:
                try:
                    world.service(name)
                except ConfigError as error:
                    self._report(self._interpreter.mistake(error, statement))
        for name, statement in self._enabled.items():
            service = world.services.get(name)
            if service is None or not service.enabled or name not in self._said_since or name in self._faulty:
                continue
            try:
                world.check(service)
            except ConfigError as error:
                self._report(self._interpreter.mistake(error, statement))
        self.warnings[:] = self._lint.warnings(self.warnings, whole=not self.mistakes)

    def close(self) -> None:
        """Let go of every statement; what was found stays."""
        self._stack.clear()
        self._enabled.clear()
        self._awaited.clear()
        self._lint = Lint(self._interpreter.world)

    def _depends_on_mistake(self, statement: Statement) -> bool:
        """Whether a statement is about something that was refused before."""
        if statement.rule in ("create_service", "create_pool", "load"):
            return False
        if not (self._refused or self._faulty or self._session.broken):
            return False
        if any(self._is_missing(kind, statement.get(kind)) for kind in _NOUNS):
            if statement.rule == "use":
                self._session.broken = True
                self._session.current = None
            return True
        if statement.rule == "set" and "." in statement["tunable"] and self._is_misnamed(statement):
            return True
        implied = statement.get("object_name") is None and statement.get("selector_name") is None
        if statement.rule in ("set", "vhost", "vpath") and implied and self._session.broken:
            return True
        if statement.rule == "enable":
            return statement["service_name"].lower() in self._faulty
        return False

    def _is_misnamed(self, statement: Statement) -> bool:
        """Whether `SET a.b.key` is about an object whose CREATE was refused because it was to be called a.b."""
        name = f"{statement.get('object_name')}.{statement['tunable'].rpartition('.')[0]}".lower()
        return any(refused == name for _, refused in self._refused)

    def _is_missing(self, kind: str, name: str | None) -> bool:
        """Whether a name is that of an object whose CREATE or USE was refused."""
        if name is None:
            return False
        world, name = self._interpreter.world, name.lower()
        if any((noun, name) in self._refused for noun in _NOUNS[kind]):
            return True
        return name in self._faulty and name not in world.services and name not in world.pools

    def _failed(self, statement: Statement, mistake: Mistake) -> None:
        rule = statement.rule
        if rule in ("create_service", "create_pool", "use"):
            self._session.broken = True
            self._session.current = None
            if rule == "use":
                self._faulty.add(statement["object_name"].lower())
            else:
                self._refused.add((rule.removeprefix("create_"), statement["new_name"].lower()))
        elif rule == "load":
            self._not_loaded.add(statement["plugin_name"].lower())
            self._not_loaded.update(mistake.near[:1])  # the plugin that was meant
        else:
            about = statement.get("object_name") or statement.get("selector_name")
            current = (about or (self._session.current.name if self._session.current is not None else "")).lower()
            self._faulty.add(current)
            if rule == "set" and statement["tunable"].lower() == "plugins":
                self._set_other_plugins(statement, current)
            if rule == "set" and self._follows(statement, mistake, current):
                return
        self._report(mistake)

    def _follows(self, statement: Statement, mistake: Mistake, current: str) -> bool:
        """Whether a SET was refused only because of a mistake that is told already."""
        tunable, value, world = statement["tunable"].lower(), statement["value"].lower(), self._interpreter.world
        if "." in tunable:
            return tunable.partition(".")[0] in self._not_loaded
        if tunable == "role":
            self._roleless.add(current)
        elif current in self._roleless and mistake.needs == _ROLE_FIRST:
            return True
        if tunable in ("pool", "default_service"):
            return ("pool" if tunable == "pool" else "service", value) in self._refused
        if tunable == "plugins":
            missing = set(_words(value)) - world.plugins.keys() - {"none"}
            return bool(missing) and missing <= self._not_loaded
        if tunable in world.tunables or not self._not_loaded or mistake.near or mistake.kind is Kind.NOT_BUILT_YET:
            return False
        return not self._would_be_added(mistake)

    def _set_other_plugins(self, statement: Statement, service: str) -> None:
        """Carry out a SET plugins without those that are not loaded, so that what is said to the others can be checked."""
        world = self._interpreter.world
        others = [name for name in _words(statement["value"]) if name in world.plugins]
        with suppress(ConfigError):  # what refuses those is told of the whole statement when the file is mended
            world.service(service).set("plugins", " ".join(others) or "none")

    def _would_be_added(self, mistake: Mistake) -> bool:
        """Whether a plugin would add it whose LOAD is missing, not one whose LOAD failed."""
        return mistake.needs is not None and mistake.needs.rule == "load" and mistake.needs.name not in self._not_loaded

    def _failed_to_parse(self, mistake: Mistake, text: str) -> None:
        words = text.replace("=", " ").lower().split()
        named = {name for _, name in self._refused}
        if words[:1] == ["create"] or words[:1] == ["use"]:
            self._session.broken = True
            self._session.current = None
            if len(words) > 2 and words[1] in ("service", "pool"):
                self._refused.add((words[1], words[2]))
        elif any(word in named or word.rpartition(".")[0] in named for word in words[1:]):
            return
        elif self._session.current is not None:
            self._faulty.add(self._session.current.name.lower())
        if words[:1] == ["load"] and len(words) > 1:
            self._not_loaded.add(words[1])
        elif self._is_statement_of_missing_plugin(mistake):
            return
        if mistake.kind is Kind.UNKNOWN_STATEMENT and not mistake.hint and not self._told_statements:
            self._told_statements = True  # once: whoever reads it knows
            mistake.hint = f"a statement begins with one of {self._interpreter.statements}"
        self._report(mistake)

    def _is_statement_of_missing_plugin(self, mistake: Mistake) -> bool:
        """Whether a plugin whose LOAD was refused may have brought the statement."""
        if not self._not_loaded or mistake.kind is not Kind.UNKNOWN_STATEMENT or not mistake.subject.isidentifier():
            return False
        return not (mistake.near or self._would_be_added(mistake))

    def _report(self, mistake: Mistake) -> None:
        self.mistakes.append(mistake)
