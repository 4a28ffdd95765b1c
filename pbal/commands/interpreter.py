"""Statements carried out: text to Statement (lang), Statement to handler (schema), handler on World.

Two callers: the console hands in one line at a time and may wait (a RELOAD waits for store calls); a file is run whole,
before anything is live. A file with mistakes reports all of them. What keeps the list honest is that a mistake does
not cause others: after a CREATE or USE that failed, the statements about that object are only parsed; after a LOAD that
failed, what would have come from that plugin is not held against the file; a service with a mistake is not checked at ENABLE. What the
core knows, and what another plugin would add, is told all the same.

The grammar is built once per file: the LOAD lines are found first, and their fragments handed to the Language together.
Live, a LOAD that brings new statements builds the new parser in a thread (50 ms) and swaps it in.

One statement that changes the configuration is carried out at a time, whichever console it came from: those that come while a LOAD or
RELOAD waits are carried out after it, in the order they came. What a name in them means is looked up only then. Queries, and what changes
no configuration (help, an end of the process, `poll publish`), do not wait.
"""

import asyncio
import codecs
import inspect
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pbal.commands.session import Session
from pbal.lang.ast import Statement
from pbal.lang.mistakes import Mistake, did_you_mean, positioned
from pbal.lang.parser import GrammarMistake, Language
from pbal.model import faults
from pbal.model.errors import ConfigError
from pbal.model.plugin import Plugin
from pbal.model.world import LoadedPlugin, World
from pbal.schema.commands import CORE_COMMANDS, CommandError, Registry, Reply
from pbal.schema.types import BOOL, DURATION, ENDPOINT, INT

_LOAD_LINE = re.compile(r"\s*LOAD\s+([\w-]+)\s*(?:#.*)?", re.IGNORECASE)

AT_ONCE = frozenset({"verbose", "help", "quit", "shutdown", "shutdown_graceful"})
"""Statements of the core that are no change of the configuration."""

CONVERTERS: dict[str, Callable[[Any, str], object]] = {
    "service_name": lambda session, text: session.world.service(text),
    "pool_name": lambda session, text: session.world.pool(text),
    "object_name": lambda session, text: session.world.object(text),
    "selector_name": lambda session, text: session.world.service(text),
    "node": lambda session, text: ENDPOINT.parse(text),
    "seconds": lambda session, text: DURATION.parse(text),
    "switch": lambda session, text: BOOL.parse(text),
    "count": lambda session, text: INT.parse(text),
}


class Interpreter:
    """The language and the handlers of one World."""

    def __init__(self, world: World) -> None:
        from pbal.commands import looking, plugins, pools, server, services  # noqa: F401 - handlers register themselves

        self.world = world
        self.language = Language()
        self.registry = CORE_COMMANDS.copy()
        self.folder = Path()
        """Where relative paths in the file begin."""
        self._in_file = False
        self._prebuilt: dict[str, str] = {}
        self._changing = asyncio.Lock()
        """Held by the one statement that changes the configuration."""

    # -- one statement -------------------------------------------------------------------------------------------

    async def execute(self, session: Session, text: str) -> tuple[Reply | None, bool]:
        """Carry out one line; its reply (None for an empty line) and whether JSON was asked for. Raises: Mistake."""
        try:
            statement = self.language.parse_line(text)
            if statement is None:
                return None, False
            return await self._execute(session, statement), statement.json
        except Mistake:
            if _makes_current(text):
                session.current = None  # a SET that follows was not meant for another
            raise

    async def _execute(self, session: Session, statement: Statement) -> Reply:
        self.world.counters.counts["console_commands"] += 1
        if not self._configures(statement.rule):
            return await self._carry_out(session, statement)
        async with self._changing:
            return await self._carry_out(session, statement)

    def _configures(self, rule: str) -> bool:
        """Whether a statement changes the configuration. Those of a plugin do if dumpconfig has to print what they did."""
        if rule in self.language.queries or rule in AT_ONCE:
            return False
        loaded = self.world.plugins.get(self.registry.owners.get(rule, ""))
        return loaded is None or loaded.plugin_class.dumpconfig is not Plugin.dumpconfig

    async def _carry_out(self, session: Session, statement: Statement) -> Reply:
        result: Any = self._call(session, statement)
        if inspect.isawaitable(result):
            try:
                result = await result
            except (CommandError, ConfigError) as error:
                raise self._mistake(error, statement) from error
            except Exception as error:
                raise self._fault(error, statement) from error
        reply: Reply = result
        return reply

    def _call(self, session: Session, statement: Statement) -> Any:
        try:
            function, arguments = self.registry.bind(session, statement, _WITH_ERRORS)
            return function(session, **arguments)
        except (CommandError, ConfigError) as error:
            raise self._mistake(error, statement) from error
        except faults.CAUGHT as error:
            raise self._fault(error, statement) from error

    def _fault(self, error: BaseException, statement: Statement) -> BaseException:
        """What a handler of a plugin's statement raised, as a mistake that names it; what one of ours did, as it is."""
        plugin = self.registry.owners.get(statement.rule, "")
        if plugin not in self.world.plugins:
            return error
        what = f"statement {statement.rule}"
        faults.report(self.world, plugin, what, error)
        return self._mistake(faults.refusal(self.world, plugin, what, error), statement)

    def _mistake(self, error: CommandError | ConfigError, statement: Statement) -> Mistake:
        if isinstance(error, ConfigError):
            error = _as_command_error(error, statement)
        return positioned(error, statement)

    # -- a file --------------------------------------------------------------------------------------------------

    def run_file(self, path: str) -> list[Mistake]:
        """Carry out a whole file; its mistakes, in order. Raises: OSError if it cannot be read."""
        data = Path(path).read_bytes()
        self.folder = Path(path).resolve().parent
        lines = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").split("\n")
        run = _FileRun(self, path)
        self._in_file = True
        try:
            self._collect_fragments(lines)
            for number, line in enumerate(lines, 1):
                run.line(number, line)
            run.end()
        finally:
            self._in_file = False
        return run.mistakes

    def _collect_fragments(self, lines: list[str]) -> None:
        """Build the grammar with the fragments of every bundled plugin that the file will load."""
        from pbal.lang.parser import bundled_fragments

        known = bundled_fragments()
        named = {match[1].lower() for line in lines if (match := _LOAD_LINE.fullmatch(line.rstrip("\r")))}
        self._prebuilt = {name: known[name] for name in sorted(named) if name in known}
        self.language = Language(self._prebuilt)

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a handler's coroutine in a file, where nothing is there to wait for."""
        try:
            coroutine.send(None)
        except StopIteration as ended:
            return ended.value
        coroutine.close()
        raise ConfigError("only on the console of a running pbal")

    # -- plugins' statements -------------------------------------------------------------------------------------

    async def prepare(self, loaded: LoadedPlugin) -> tuple[Language, Registry]:
        """Language and registry with a plugin's statements, for `install`. Raises: ConfigError."""
        fragments = {name: plugin.grammar for name, plugin in self.world.plugins.items() if plugin.grammar}
        fragments.pop(loaded.name, None)
        if loaded.grammar:
            fragments[loaded.name] = loaded.grammar
        language = self.language
        if self._in_file:  # the fragments of bundled plugins were collected before the first line
            fragments = {**fragments, **self._prebuilt}
        if fragments != dict(self.language.fragments):
            language = Language(fragments)
            await self._build(language)
        registry = self.registry.copy()
        registry.unregister(loaded.name)
        try:
            registry.register(loaded.name, loaded.commands)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        rules = Language({loaded.name: loaded.grammar}) if loaded.grammar else Language()
        own = rules.rules - Language().rules
        names = {function.__name__.removesuffix("_") for function in loaded.commands}
        if own != names:
            odd = ", ".join(sorted(own ^ names))
            raise ConfigError(f"plugin '{loaded.name}': statements and handlers do not match: {odd}")
        return language, registry

    async def _build(self, language: Language) -> None:
        try:
            if self._in_file:
                language.build()
            else:
                await asyncio.get_running_loop().run_in_executor(None, language.build)
        except GrammarMistake as mistake:
            raise ConfigError(str(mistake)) from None

    def install(self, language: Language, registry: Registry) -> None:
        """Swap in what `prepare` made."""
        self.language, self.registry = language, registry

    def uninstall(self, plugin: str) -> None:
        """Take a plugin's statements out. The parser is rebuilt at the next line."""
        self.registry.unregister(plugin)
        if plugin in self.language.fragments:
            self.language = Language({name: text for name, text in self.language.fragments.items() if name != plugin})


def _makes_current(text: str) -> bool:
    """Whether a line is meant to make an object the current one."""
    return text.split(None, 1)[:1] != [] and text.split(None, 1)[0].upper() in ("CREATE", "USE")


def _as_command_error(error: ConfigError, statement: Statement) -> CommandError:
    """A model's refusal with the argument it is about, and a suggestion."""
    arg = None
    for terminal, said in statement.args.items():
        if error.about and said.text.lower() == error.about.lower():
            arg = terminal
    return CommandError(error.message, arg, did_you_mean(error.about, error.candidates) if error.about else "")


def _with_errors(converter: Callable[[Any, str], object]) -> Callable[[Any, str], object]:
    def convert(session: Any, text: str) -> object:
        try:
            return converter(session, text)
        except ConfigError as error:
            raise CommandError(error.message, hint=did_you_mean(error.about, error.candidates)) from None

    return convert


_WITH_ERRORS = {name: _with_errors(converter) for name, converter in CONVERTERS.items()}


_KINDS = {
    "object_name": ("service", "pool"),
    "service_name": ("service",),
    "selector_name": ("service",),
    "pool_name": ("pool",),
}
"""What may be called by each kind of name."""


def _near(mistake: Mistake) -> bool:
    """Whether it is most likely a word misspelt."""
    return mistake.hint.startswith("did you mean")


class _FileRun:
    """One pass over a file."""

    def __init__(self, interpreter: Interpreter, path: str) -> None:
        self._interpreter = interpreter
        self._path = path
        self._session = Session(interpreter.world, interpreter, origin=path, verbose=False)
        self.mistakes: list[Mistake] = []
        self._faulty: set[str] = set()
        """Names of objects that a mistake was made about; they are not checked at ENABLE."""
        self._refused: set[tuple[str, str]] = set()
        """What kind of object, and its name: those whose CREATE was refused."""
        self._not_loaded: set[str] = set()
        """Plugins whose LOAD was refused."""
        self._enabled: dict[str, Statement] = {}
        """The ENABLE of each service that was enabled; what is said of it afterwards is checked at the end."""
        self._said_since: set[str] = set()
        self._roleless: set[str] = set()
        """Services whose SET role was refused; that others of their settings need one is not held against them."""

    def line(self, number: int, text: str) -> None:
        """Carry out one line."""
        interpreter = self._interpreter
        try:
            statement = interpreter.language.parse_line(text, file=self._path, line=number)
            if statement is None or self._depends_on_mistake(statement):
                return
            try:
                result = interpreter._call(self._session, statement)
                if inspect.iscoroutine(result):
                    try:
                        interpreter.drive(result)
                    except (CommandError, ConfigError) as error:
                        raise interpreter._mistake(error, statement) from error
            except Mistake as mistake:
                self._failed(statement, mistake)
                return
            if statement.rule in ("create_service", "create_pool", "use"):
                self._session.broken = False
            self._note(statement)
        except GrammarMistake as mistake:
            self._report(Mistake(str(mistake), line=number, source=text, file=self._path))
        except Mistake as mistake:
            self._failed_to_parse(mistake, text)

    def _note(self, statement: Statement) -> None:
        """A statement was good."""
        if statement.rule == "enable":
            name = statement["service_name"].lower()
            self._enabled[name] = statement
            self._said_since.discard(name)
            return
        named = {statement.get(kind) for kind in ("object_name", "selector_name")} - {None}
        current = self._session.current
        self._said_since |= {str(name).lower() for name in named} or ({current.name.lower()} if current is not None else set())

    def end(self) -> None:
        """The file ends: whether what was enabled would be enabled as it is now."""
        world = self._interpreter.world
        for name, statement in self._enabled.items():
            service = world.services.get(name)
            if service is None or not service.enabled or name not in self._said_since or name in self._faulty:
                continue
            try:
                world.check(service)
            except ConfigError as error:
                self._report(self._interpreter._mistake(error, statement))

    def _depends_on_mistake(self, statement: Statement) -> bool:
        """Whether a statement is about something that was refused before."""
        if statement.rule in ("create_service", "create_pool", "load"):
            return False
        if any(self._is_missing(kind, statement.get(kind)) for kind in _KINDS):
            if statement.rule == "use":
                self._session.broken = True
                self._session.current = None
            return True
        implied = statement.get("object_name") is None and statement.get("selector_name") is None
        if statement.rule in ("set", "vhost", "vpath") and implied and self._session.broken:
            return True
        if statement.rule == "enable":
            return statement["service_name"].lower() in self._faulty
        return False

    def _is_missing(self, kind: str, name: str | None) -> bool:
        """Whether a name is that of an object whose CREATE or USE was refused."""
        if name is None:
            return False
        world, name = self._interpreter.world, name.lower()
        if any((noun, name) in self._refused for noun in _KINDS[kind]):
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
            if _near(mistake):  # the plugin that was meant
                self._not_loaded.add(mistake.hint.split("'")[1])
        else:
            about = statement.get("object_name") or statement.get("selector_name")
            current = (about or (self._session.current.name if self._session.current is not None else "")).lower()
            self._faulty.add(current)
            if rule == "set" and self._follows(statement, mistake, current):
                return
        self._report(mistake)

    def _follows(self, statement: Statement, mistake: Mistake, current: str) -> bool:
        """Whether a SET was refused only because of a mistake that is told already."""
        tunable, value, world = statement["tunable"].lower(), statement["value"].lower(), self._interpreter.world
        if tunable == "role":
            self._roleless.add(current)
        elif current in self._roleless and "SET role " in mistake.message:
            return True
        if tunable in ("pool", "default_service"):
            return ("pool" if tunable == "pool" else "service", value) in self._refused
        if tunable == "plugins":
            missing = set(value.replace(",", " ").split()) - world.plugins.keys() - {"none"}
            return bool(missing) and missing <= self._not_loaded
        if tunable in world.tunables or not self._not_loaded or _near(mistake):
            return False
        return not self._would_be_added(mistake)

    def _would_be_added(self, mistake: Mistake) -> bool:
        """Whether the hint names a plugin whose LOAD is missing, not one whose LOAD failed."""
        words = mistake.hint.split()
        return words[:1] == ["LOAD"] and words[1].lower() not in self._not_loaded

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
        elif self._not_loaded and mistake.message.endswith("is not a statement") and not (_near(mistake) or self._would_be_added(mistake)):
            return
        self._report(mistake)

    def _report(self, mistake: Mistake) -> None:
        self.mistakes.append(mistake)
