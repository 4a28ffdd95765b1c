"""Commands: handlers named after the rules of the grammar, what they answer, and how the two are bound.

A statement of the grammar is a rule; a command is the function of the same name. The rule says the syntax,
the function's signature says what it takes, its docstring says what it does: from the pair come argument
conversion, `help`, the manual and completion. `Registry.check` finds every rule without a handler and every
handler without a rule, and start-up stops on either.

    @command
    def pool_add(session: Session, pool: Pool, node: Endpoint) -> Reply:
        "Add a node to a pool. Adding one twice changes nothing."

A parameter is named like its terminal in lower case, without a closing `_name`: POOL_NAME is `pool`. One
trailing underscore, in a function's name or a parameter's, is not part of the name (`set_`, `object_`), so
that nobody has to shadow a builtin. How the text of a terminal becomes a value is decided by converters the
caller hands in, because only the model knows which pools exist; this file knows neither the model nor the
grammar.
"""

import inspect
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pbal.schema.kinds import BadValue, Key, Kind, Needed

Handler = Callable[..., Any]
Converter = Callable[[Any, str], object]
F = TypeVar("F", bound=Handler)


class CommandError(Exception):
    """A command that is refused. `arg` names the argument to underline, as parameter or as terminal, `span` the part of its text.

    `hint` is advice in words. Without it, `candidates` are what the word at fault might have been; that word is the argument's text, or
    the `subject` if that is said.
    """

    def __init__(
        self,
        message: str,
        arg: str | None = None,
        hint: str = "",
        *,
        kind: Kind = Kind.REFUSED,
        subject: str = "",
        candidates: Iterable[str] = (),
        needs: Needed | None = None,
        against: Key = (),
        span: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.arg = arg
        self.hint = hint
        self.kind = kind
        self.subject = subject
        self.candidates = tuple(candidates)
        self.needs = needs
        self.against = against
        self.span = span


# --- replies -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What a command answers. `OK` itself, `Text` or `Rows`."""

    def as_text(self) -> Iterator[str]:
        """The lines of the answer, without line ends; may be consumed once, piece by piece."""
        return iter(("OK",))

    def as_json(self) -> Iterator[str]:
        """The answer as lines that together are one JSON value."""
        return iter(('{"ok": true}',))


OK = Reply()


@dataclass(frozen=True)
class Text(Reply):
    """Free text. `end_dot` says whether the line '.' follows, as it does after every list in Perlbal."""

    lines: Iterable[str]
    end_dot: bool = True

    def as_text(self) -> Iterator[str]:
        """The lines, then '.' if wanted."""
        yield from self.lines
        if self.end_dot:
            yield "."

    def as_json(self) -> Iterator[str]:
        """An array of the lines."""
        return _json_array(self.lines)


@dataclass(frozen=True)
class Live(Reply):
    """An answer that goes on until it is ended: by `stop`, which may be called more than once, or by itself.

    `lines` is called once, with whether JSON is wanted, and yields lines as they come. Who writes them closes it (`aclose`), however it
    ends. Where an answer has to be whole at once it has no lines.
    """

    lines: Callable[[bool], AsyncGenerator[list[str], None]]
    stop: Callable[[], None]

    def as_text(self) -> Iterator[str]:
        """Nothing, and '.'."""
        return iter((".",))

    def as_json(self) -> Iterator[str]:
        """An empty array."""
        return _json_array(())


@dataclass(frozen=True)
class Rows(Reply):
    """A table. `line` renders a row for people; `rows` may be a generator: a long answer is never whole."""

    columns: tuple[str, ...]
    rows: Iterable[tuple[object, ...]]
    line: Callable[[tuple[Any, ...]], str]
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    def as_text(self) -> Iterator[str]:
        """Head, a line a row, tail, '.'."""
        yield from self.head
        for row in self.rows:
            yield self.line(row)
        yield from self.tail
        yield "."

    def as_json(self) -> Iterator[str]:
        """An array of objects keyed by the columns, one object a line."""
        return _json_array(dict(zip(self.columns, row, strict=True)) for row in self.rows)


def _json_array(items: Iterable[object]) -> Iterator[str]:
    """`[`, the items with commas between, `]`. Values JSON has no form for are written as their text."""
    yield "["
    waiting: str | None = None
    for item in items:
        if waiting is not None:
            yield waiting + ","
        waiting = "  " + json.dumps(item, default=str)
    if waiting is not None:
        yield waiting
    yield "]"


# --- the registry ------------------------------------------------------------------------------------------


class Located(Protocol):
    """The text of one argument."""

    @property
    def text(self) -> str: ...


class Parsed(Protocol):
    """What `bind` needs of a statement; `lang.ast.Statement` has it."""

    @property
    def rule(self) -> str: ...

    @property
    def args(self) -> Mapping[str, Located]: ...


def parameter_name(terminal: str) -> str:
    """The handler's parameter for a terminal: POOL_NAME and pool_name are `pool`, NODE is `node`."""
    return terminal.lower().removesuffix("_name")


def _word(identifier: str) -> str:
    return identifier.removesuffix("_")


@dataclass
class Registry:
    """Handlers by the rule they answer, each with its owner, core or a plugin, that it leaves with."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def register(self, owner: str, functions: Iterable[Handler]) -> None:
        """Add handlers. Raises: ValueError, adding none, if a rule has a handler already."""
        named = {_word(function.__name__): function for function in functions}
        for rule in named:
            if rule in self.handlers:
                raise ValueError(f"{owner} and {self.owners[rule]} both define the command '{rule}'")
        self.handlers.update(named)
        self.owners.update(dict.fromkeys(named, owner))

    def unregister(self, owner: str) -> None:
        """Remove every handler of `owner`; an owner without handlers is no error."""
        for rule in [rule for rule, of in self.owners.items() if of == owner]:
            del self.handlers[rule], self.owners[rule]

    def copy(self) -> "Registry":
        """An independent registry with the same handlers, to be tried before it replaces this one."""
        return Registry(dict(self.handlers), dict(self.owners))

    def handler(self, rule: str) -> Handler:
        """The handler of a rule. Raises: CommandError if there is none."""
        if rule not in self.handlers:
            raise CommandError(f"'{rule}' is not a command")
        return self.handlers[rule]

    def check(self, rules: Iterable[str], terminals: Callable[[str], Iterable[str]] | None = None) -> list[str]:
        """What does not fit between grammar and handlers, one complaint a line; empty means sound.

        With `terminals` (rule to its terminals' names) the parameters are compared as well.
        """
        rules = frozenset(rules)
        complaints = [f"rule without handler {rule}" for rule in sorted(rules - self.handlers.keys())]
        complaints += [f"handler without rule {rule}" for rule in sorted(self.handlers.keys() - rules)]
        if terminals:
            for rule in sorted(rules & self.handlers.keys()):
                complaints += self._mismatches(rule, terminals(rule))
        return complaints

    def _mismatches(self, rule: str, terminals: Iterable[str]) -> Iterator[str]:
        said = {parameter_name(terminal) for terminal in terminals}
        taken = set(self.parameters(rule))
        for name in sorted(said - taken):
            yield f"handler {rule} has no parameter {name}"
        for name in sorted(taken - said):
            yield f"rule {rule} has no terminal for the parameter {name}"

    def parameters(self, rule: str) -> tuple[str, ...]:
        """Names of what the handler takes after the session."""
        return tuple(_word(parameter.name) for parameter in _parameters(self.handler(rule)))

    def bind(self, session: Any, statement: Parsed, converters: Mapping[str, Converter]) -> tuple[Handler, dict[str, object]]:
        """The handler of a statement and its keyword arguments, converted.

        Converters go by terminal name ('pool_name', 'node'); without one the text itself is the value. An
        argument that was not said is the parameter's default, or None. Raises: CommandError, its `arg`
        naming the argument at fault.
        """
        function = self.handler(statement.rule)
        values = {parameter_name(terminal): _converted(session, terminal, arg.text, converters) for terminal, arg in statement.args.items()}
        kwargs: dict[str, object] = {}
        for parameter in _parameters(function):
            unsaid = None if parameter.default is parameter.empty else parameter.default
            kwargs[parameter.name] = values.pop(_word(parameter.name), unsaid)
        if values:
            raise CommandError(f"the command '{statement.rule}' takes no {', '.join(sorted(values))}")
        return function, kwargs

    def help_topics(self) -> list[str]:
        """Every command that has a handler, sorted."""
        return sorted(self.handlers)

    def help_for(self, rule: str) -> tuple[str, str]:
        """Summary line and whole docstring of a command. Raises: CommandError if there is no such command."""
        text = inspect.getdoc(self.handler(rule)) or ""
        return text.partition("\n")[0], text


def _parameters(function: Handler) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


def _converted(session: Any, terminal: str, text: str, converters: Mapping[str, Converter]) -> object:
    converter = converters.get(terminal)
    if converter is None:
        return text
    try:
        return converter(session, text)
    except CommandError as error:
        error.arg = error.arg or terminal
        raise
    except ValueError as error:
        span, instead = (error.span, error.instead) if isinstance(error, BadValue) else (None, ())
        raise CommandError(str(error), terminal, kind=Kind.BAD_VALUE, candidates=instead, span=span) from error


# --- the default registry ----------------------------------------------------------------------------------

# Handlers of the core language put themselves here when their module is imported.
CORE_COMMANDS = Registry()


def command(function: F) -> F:
    """Record a function, plain or coroutine, as the handler of the core rule it is named after."""
    CORE_COMMANDS.register("core", [function])
    return function
