"""Statements carried out: text to Statement (lang), Statement to handler (schema), handler on World.

Two callers: the console hands in one line at a time and may wait (a RELOAD waits for store calls); a file is run whole,
before anything is live (files.py).

The grammar is built once per file: the LOAD lines are found first, and their fragments handed to the Language together.
Live, a LOAD that brings new statements builds the new parser in a thread (50 ms) and swaps it in.

One statement that changes the configuration is carried out at a time, whichever console it came from: those that come while a LOAD or
RELOAD waits are carried out after it, in the order they came. What a name in them means is looked up only then. Queries, and what changes
no configuration (help, an end of the process, `poll publish`), do not wait.
"""

import asyncio
import importlib
import inspect
import logging
import pkgutil
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from cProfile import Profile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbal import commands
from pbal.commands.session import Session
from pbal.commands.slices import in_slices
from pbal.config.spec import Config
from pbal.lang.ast import Statement
from pbal.lang.expand import files_in, masked
from pbal.lang.mistakes import Mistake, Place, positioned
from pbal.lang.parser import GrammarMistake, Language, bundled_fragments, language_of
from pbal.model import faults
from pbal.model.errors import ConfigError
from pbal.model.plugin import Plugin
from pbal.model.snapshot import in_pieces
from pbal.model.world import LoadedPlugin, World
from pbal.net.tasks import NotInTime, within
from pbal.schema.balancing import MOST, WEIGHT
from pbal.schema.commands import CORE_COMMANDS, OK, CommandError, Registry, Reply, Text, parameter_name
from pbal.schema.kinds import Key, Kind
from pbal.schema.pools import OF_POOLS
from pbal.schema.said import Said
from pbal.schema.types import BOOL, DURATION, ENDPOINT, INT

if TYPE_CHECKING:
    from pbal.commands.files import FileRun

log = logging.getLogger("pbal.console")

NO_CHANGE = frozenset({"verbose", "terminal", "help", "quit", "login", "mark", "mark_json"})
"""Statements of the core that change nothing but their own connection."""
AT_ONCE = NO_CHANGE | {"prof", "shutdown", "shutdown_graceful", "crash", "tunnel_kick"}
"""Statements of the core that are no change of the configuration."""

UNDISTURBED = frozenset({"config_drift", "reload_config_dry_run"})
"""Queries of the core that go over all of the configuration in slices: nothing may change it meanwhile."""

_NOT_FOR_NEWCOMERS = {"CONFIG", "RELOAD", "XS"}
"""Statements that no file needs."""

STATEMENT_LIMIT = 60.0
"""Seconds for a plugin's statement. One that never ends would keep every other change waiting, whichever console it comes from."""

SHORTEST_SECRET = 4
"""Characters; a shorter word stands in messages for other reasons."""

CONVERTERS: dict[str, Callable[[Any, str], object]] = {
    "service_name": lambda session, text: session.world.service(text),
    "pool_name": lambda session, text: session.world.pool(text),
    "object_name": lambda session, text: session.world.object(text),
    "owner_name": lambda session, text: session.world.object(text),
    "selector_name": lambda session, text: session.world.service(text),
    "target_name": lambda session, text: session.world.target(text),
    "node": lambda session, text: ENDPOINT.parse(ENDPOINT.placed(text, session.interpreter.folder)),
    "node_weight": lambda session, text: WEIGHT.parse(text),
    "node_max": lambda session, text: MOST.parse(text),
    "backup": lambda session, text: True,
    "seconds": lambda session, text: DURATION.parse(text),
    "switch": lambda session, text: BOOL.parse(text),
    "count": lambda session, text: INT.parse(text),
}


SlowWork = tuple[tuple[str, ...], Callable[[], object]]
"""Rule and arguments of a statement, and what is to be called in a thread before it is carried out (schema.commands.ahead)."""


@cache
def _import_handlers() -> None:
    """Handlers register themselves when their modules are imported."""
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")


class Interpreter:
    """The language and the handlers of one World."""

    def __init__(self, world: World) -> None:
        _import_handlers()
        self.world = world
        self.language = language_of({})
        self.registry = CORE_COMMANDS.copy()
        self.folder = Path()
        """Where relative paths in the file begin."""
        self.warnings: list[Mistake] = []
        """Of the file that was read last."""
        self._secrets: dict[str, str] = {}
        """Words that came from ${env:NAME} or ${file:PATH}, and how they were written: no message shows them."""
        self.read_too: set[Path] = set()
        """Files that statements have read, besides the one that they stand in: INCLUDE, ${file:PATH}."""
        self.places: dict[Key, Place] = {}
        """Where in its file stands what a file said, for as long as it holds."""
        self.proc_before: dict[str, float] = {}
        """What the last `proc` told, whichever console it was."""
        self.profile: Profile | None = None
        """What PROF on measures, or has measured."""
        self.path = Path()
        """The file that was read last, whole path."""
        self.instead: Mapping[Path, bytes] = {}
        """What is read in place of files."""
        self.filed: Config | None = None
        """What the file made; None as long as nothing has changed since."""
        self.made: dict[tuple[str, ...], object] = {}
        """What was made in threads for statements that are to be carried out, by rule and arguments (schema.commands.ahead)."""
        self._slow: tuple[Registry | None, frozenset[str]] = (None, frozenset())
        """First words of the statements for which something is, of this registry."""
        self._in_file = False
        self._prebuilt: dict[str, str] = {}
        self._changing = asyncio.Lock()
        """Held by the one statement that changes the configuration."""

    # -- one statement -------------------------------------------------------------------------------------------

    def parse(self, text: str, file: str = "", line: int = 0) -> Statement | None:
        """One line as a statement; None where there is none. Raises: Mistake, with advice that the grammar alone cannot give."""
        try:
            statement = self.language.parse_line(text, file=file, line=line, folder=self.folder)
            if statement is not None:
                self._keep_secrets(statement)
            return statement
        except Mistake as mistake:
            if mistake.kind is Kind.UNKNOWN_STATEMENT and not mistake.hint:
                mistake.hint = self._setting(mistake.subject.lower())
            raise

    def _keep_secrets(self, statement: Statement) -> None:
        """Remember the words that a variable hides: what refuses a statement much later may name one of them."""
        for arg in statement.args.values():
            if isinstance(arg.text, Said):
                said, written = arg.text.split(), arg.text.written.split()
                self.read_too.update(files_in(arg.text.written, self.folder))
                shown = " ".join(word for word in written if word not in said)
                hidden = (word for word in said if word not in arg.text.written and len(word) >= SHORTEST_SECRET)
                self._secrets.update((word, shown) for word in hidden)

    def _setting(self, word: str) -> str:
        """A hint where a line begins with a tunable, as it does in the files of others."""
        if word in self.world.tunables or word in OF_POOLS:
            return f"did you mean 'SET {word} = VALUE'?"
        return f"did you mean 'SERVER {word} = VALUE'?" if word in self.world.server_tunables else ""

    @property
    def statements(self) -> str:
        """The words with which the statements of a file begin."""
        rules = self.language.rules - self.language.queries - AT_ONCE
        usages = (usage for rule in rules for usage in self.language.syntax(rule).split(" | "))
        return ", ".join(sorted({usage.split()[0] for usage in usages} - _NOT_FOR_NEWCOMERS))

    async def execute(self, session: Session, text: str) -> tuple[Reply | None, bool]:
        """Carry out one line; its reply (None for an empty line) and whether JSON was asked for. Raises: Mistake."""
        try:
            if session.only_looks:
                _refuse_variables(session, text)
            statement = self.parse(text)
            if statement is None:
                return None, False
            return await self._execute(session, statement), statement.json
        except Mistake:
            if _makes_current(text):
                session.current = None  # a SET that follows was not meant for another
            raise

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While this is held no statement changes the configuration, as while one does."""
        async with self._changing:
            yield

    async def _execute(self, session: Session, statement: Statement) -> Reply:
        self.world.counters.counts["console_commands"] += 1
        rule = statement.rule
        looks = rule in self.language.queries or rule in NO_CHANGE
        if looks and rule not in UNDISTURBED:
            return await self._carry_out(session, statement)
        if session.only_looks and rule != "config_drift":  # a dry run imports the plugins that the file names
            raise self.mistake(CommandError(session.only_looks), statement)
        if looks:
            async with self._changing:
                return await self._carry_out(session, statement)
        if self._configures(rule):
            async with self._changing:
                if self.filed is None:
                    self.filed = await in_slices(in_pieces(self.world))
                reply = await self._carry_out(session, statement)
            if rule != "use":
                self._note(session, statement.source.strip())
            return reply
        if rule in AT_ONCE:
            reply = await self._carry_out(session, statement)
            self._note(session, statement.source.strip())
            return reply
        if session.who:  # what it is about may be a message of somebody's
            log.debug("%(who)s: %(statement)s", {"event": "statement", "who": session.who, "statement": rule.replace("_", " ")})
        return await self._carry_out(session, statement)

    def _note(self, session: Session, source: str) -> None:
        """Log a change, and whose it was. The words are those that were typed: what ${file:...} stands for is in no log."""
        if session.who:
            log.info("%(who)s: %(statement)s", {"event": "changed", "who": session.who, "statement": source})

    def _configures(self, rule: str) -> bool:
        """Whether a statement changes the configuration. Those of a plugin do if dumpconfig has to print what they did."""
        if rule in self.language.queries or rule in AT_ONCE:
            return False
        loaded = self.world.plugins.get(self.registry.owners.get(rule, ""))
        return loaded is None or loaded.plugin_class.dumpconfig is not Plugin.dumpconfig

    async def _carry_out(self, session: Session, statement: Statement) -> Reply:
        session.warnings.clear()
        result: Any = self.call(session, statement)
        if inspect.isawaitable(result):
            try:
                result = await self._in_time(result, statement)
            except (CommandError, ConfigError) as error:
                raise self.mistake(error, statement) from error
            except faults.CAUGHT as error:
                task = asyncio.current_task()
                if isinstance(error, GeneratorExit) or (task is not None and task.cancelling()):
                    raise  # the console's end
                raise self._fault(error, statement) from error
        if not isinstance(result, Reply) and self._owner(statement):
            said = f"it returned {faults.shown(result)}, not a Reply such as OK or Text([...])"
            raise self._fault(TypeError(said), statement)
        reply: Reply = result
        if reply is OK and session.warnings:
            return Text([f"warning: {warning.in_one_line()}" for warning in session.warnings], end_dot=False)
        return reply

    async def _in_time(self, result: Awaitable[Any], statement: Statement) -> Any:
        """Wait for a handler; for that of a plugin no longer than STATEMENT_LIMIT. Raises: what it raises, or ConfigError."""
        plugin = self._owner(statement)
        if not plugin:
            return await result
        try:
            return await within(STATEMENT_LIMIT, result)
        except NotInTime:
            message = f"plugin '{plugin}', statement {statement.rule}: it did not end within {STATEMENT_LIMIT:g} s"
            raise ConfigError(message, kind=Kind.PLUGIN) from None

    def say(self, session: Session, text: str) -> None:
        """Carry out a statement that waits for nothing, as part of another. Raises: Mistake, ConfigError."""
        statement = self.parse(text)
        if statement is not None:
            self.carry_out_now(session, statement)

    def carry_out_now(self, session: Session, statement: Statement) -> None:
        """Carry out a statement that waits for nothing. Raises: Mistake."""
        result = self.call(session, statement)
        if inspect.iscoroutine(result):
            try:
                self._drive(result)
            except (CommandError, ConfigError) as error:
                raise self.mistake(error, statement) from error
            except faults.CAUGHT as error:
                raise self._fault(error, statement) from error

    def call(self, session: Session, statement: Statement) -> Any:
        try:
            session.statement = statement
            for warning in statement.warnings:
                session.warn(warning)
            function, arguments = self.registry.bind(session, statement, _WITH_ERRORS)
            return function(session, **arguments)
        except (CommandError, ConfigError) as error:
            raise self.mistake(error, statement) from error
        except faults.CAUGHT as error:
            raise self._fault(error, statement) from error

    def _fault(self, error: BaseException, statement: Statement) -> BaseException:
        """What a handler of a plugin's statement raised, as a mistake that names it; what one of ours did, as it is."""
        plugin = self._owner(statement)
        if not plugin:
            return error
        what = f"statement {statement.rule}"
        faults.report(self.world, plugin, what, error)
        return self.mistake(faults.refusal(self.world, plugin, what, error), statement)

    def _owner(self, statement: Statement) -> str:
        """The plugin whose statement it is; "" for those of the core."""
        plugin = self.registry.owners.get(statement.rule, "")
        return plugin if plugin in self.world.plugins else ""

    def mistake(self, error: CommandError | ConfigError, statement: Statement) -> Mistake:
        if isinstance(error, ConfigError):
            error = _as_command_error(error, statement)
        mistake = positioned(error, statement, self.places)
        for secret, written in self._secrets.items():
            mistake.message = mistake.message.replace(secret, written)
        return mistake

    # -- a file --------------------------------------------------------------------------------------------------

    def run_file(self, path: str, data: bytes | None = None, most: int = sys.maxsize) -> list[Mistake]:
        """Carry out a whole file, or what was read already and is called by that name; its mistakes, in order.

        `most`: after so many it is not read on. Raises: OSError if it cannot be read.
        """
        from pbal.commands.files import divided, lines_of

        run = self.begin_file(path, lines_of(path) if data is None else divided(data))
        try:
            while len(run.mistakes) < most and run.step():
                pass
            run.end()
        finally:
            self.end_file(run)
        return run.mistakes

    def begin_file(self, path: str, lines: list[str]) -> "FileRun":
        """Begin to read a file, for who wants it in steps; `end_file` is to follow, whatever happens."""
        from pbal.commands.files import FileRun

        self._in_file = True
        self._prebuilt = {}
        self.path = Path(path).absolute()
        return FileRun(self, path, lines)

    def end_file(self, run: "FileRun") -> None:
        """The file was read."""
        self._in_file = False
        self.warnings = run.warnings

    def know_plugins(self, lines: list[str]) -> None:
        """Have the grammar with the fragments of every bundled plugin that a file will load."""
        from pbal.commands.files import plugins_named

        known = bundled_fragments()
        new = {name: known[name] for name in plugins_named(lines) if name in known and name not in self._prebuilt}
        if new:
            self._prebuilt |= new
            self.language = language_of({**self.language.fragments, **new})

    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a handler's coroutine in a file, where nothing is there to wait for."""
        try:
            coroutine.send(None)
        except StopIteration as ended:
            return ended.value
        coroutine.close()
        raise ConfigError("only on the console of a running pbal")

    def slow_work(self, session: Session, text: str, folder: Path) -> SlowWork | None:
        """What is to be made in a thread before a line is carried out, and its key; None where that is nothing, or it is made."""
        registry, words = self._slow
        if registry is not self.registry:
            rules = [rule for rule, function in self.registry.handlers.items() if hasattr(function, "ahead")]
            words = frozenset(self.language.syntax(rule).split()[0] for rule in rules)
            self._slow = self.registry, words
        if not words or not text.split() or text.split()[0].upper() not in words:
            return None
        try:
            statement = self.language.parse_line(text, folder=folder)
            work = None if statement is None else getattr(self.registry.handler(statement.rule), "ahead", None)
            if statement is None or work is None:
                return None
            texts = {parameter_name(terminal): arg.text for terminal, arg in statement.args.items()}
            key = (statement.rule, *texts.values())
            return None if key in self.made else (key, work(session, **texts))
        except (Mistake, CommandError, ConfigError):  # which whoever carries it out is told
            return None

    # -- plugins' statements -------------------------------------------------------------------------------------

    async def prepare(self, *plugins: LoadedPlugin) -> tuple[Language, Registry]:
        """Language and registry with the statements of plugins, for `install`. Raises: ConfigError."""
        registry = self.registry.copy()
        for loaded in plugins:
            registry.unregister(loaded.name)
        for loaded in plugins:
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
            for complaint in registry.check(own, rules.terminals, owner=loaded.name):
                raise ConfigError(f"plugin '{loaded.name}': {complaint}")
        language = self.language_with(*plugins)
        if language is not self.language:
            await self._build(language)
        return language, registry

    def language_with(self, *plugins: LoadedPlugin) -> Language:
        """The language with the statements of plugins; its parser may not be built yet."""
        fragments = {name: plugin.grammar for name, plugin in self.world.plugins.items() if plugin.grammar}
        for loaded in plugins:
            fragments.pop(loaded.name, None)
            if loaded.grammar:
                fragments[loaded.name] = loaded.grammar
        if self._in_file:  # the fragments of bundled plugins were collected before the first line
            fragments = {**fragments, **self._prebuilt}
        return self.language if fragments == dict(self.language.fragments) else language_of(fragments)

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

    async def built(self) -> None:
        """Have the parser built, off the loop, before the next line needs it."""
        if not self.language.built:
            await self._build(self.language)

    def uninstall(self, plugin: str) -> None:
        """Take a plugin's statements out. The parser is rebuilt at the next line, unless somebody waits for `built` before."""
        self.registry.unregister(plugin)
        if plugin in self.language.fragments:
            self.language = language_of({name: text for name, text in self.language.fragments.items() if name != plugin})


def _refuse_variables(session: Session, text: str) -> None:
    """Who only looks sees nothing of the environment or of files: what a variable stands for would come back in an answer.

    Raises: Mistake.
    """
    for piece in masked(text).pieces:
        raise Mistake(
            f"{session.only_looks}: no variable may stand here", source=text, column=piece.source_start + 1, end=piece.source_end + 1
        )


def _makes_current(text: str) -> bool:
    """Whether a line is meant to make an object the current one."""
    return text.split(None, 1)[:1] != [] and text.split(None, 1)[0].upper() in ("CREATE", "USE")


def _as_command_error(error: ConfigError, statement: Statement) -> CommandError:
    """A model's refusal with the argument it is about."""
    arg, span = None, error.span
    about = error.about.lower()
    for terminal, said in statement.args.items():
        if said.text.lower() == about and (about or error.kind is Kind.BAD_VALUE):
            arg = terminal
    if arg is None and error.kind is Kind.BAD_VALUE and "value" in statement.args and error.span is None:
        arg = "value"  # a path, which was made absolute
    if about and arg is None:  # one word of an argument, as of a list
        word = re.compile(rf"(?<![\w-]){re.escape(about)}(?![\w-])", re.IGNORECASE)
        for terminal, said in statement.args.items():
            if match := word.search(said.text):
                arg, span = terminal, match.span()
    return _refusal(error, arg, span)


def _refusal(error: ConfigError, arg: str | None, span: tuple[int, int] | None) -> CommandError:
    return CommandError(
        error.message,
        arg,
        kind=error.kind,
        subject=error.about,
        candidates=error.candidates,
        needs=error.needs,
        against=error.against,
        span=span,
    )


def _with_errors(converter: Callable[[Any, str], object]) -> Callable[[Any, str], object]:
    def convert(session: Any, text: str) -> object:
        try:
            return converter(session, text)
        except ConfigError as error:
            raise _refusal(error, None, error.span) from None

    return convert


_WITH_ERRORS = {name: _with_errors(converter) for name, converter in CONVERTERS.items()}
