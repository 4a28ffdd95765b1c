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
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from pbal.schema import people
from pbal.schema.kinds import BadValue, Key, Kind, Needed
from pbal.schema.people import Unit, View

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


def bad_argument(arg: str, error: ValueError) -> CommandError:
    """What a type said of an argument, as a refusal."""
    span, instead = (error.span, error.instead) if isinstance(error, BadValue) else (None, ())
    return CommandError(str(error), arg, kind=Kind.BAD_VALUE, candidates=instead, span=span)


# --- replies -----------------------------------------------------------------------------------------------
#
# A handler says once what there is, and three readers read it: scripts get Perlbal's lines (`as_text`, which ends with a dot
# where Perlbal ends so), programs get JSON, with numbers as numbers and names as keys (`as_json`), and people at a terminal get
# aligned columns (`as_table`, see schema/people.py). All three come piece by piece: a long answer is never whole. Each may be read once.


@dataclass(frozen=True)
class Reply:
    """What a command answers: `OK` itself, `Text`, `Rows`, `Objects` or `Facts`."""

    def as_text(self) -> Iterator[str]:
        """The lines of the answer, without line ends."""
        return iter(("OK",))

    def as_json(self) -> Iterator[str]:
        """The answer as lines that together are one JSON value."""
        return iter(('{"ok": true}',))

    def as_table(self, view: View) -> Iterator[str]:
        """The lines of the answer for people, without the dot at the end."""
        return self.as_text()


OK = Reply()


@dataclass(frozen=True)
class Text(Reply):
    """Free text. `end_dot` says whether the line '.' follows, as it does after every list in Perlbal. Prose is folded for people."""

    lines: Iterable[str]
    end_dot: bool = True
    prose: bool = False
    instead: bool = False
    """Whether it stands in place of OK, which else follows what has no dot."""

    def as_text(self) -> Iterator[str]:
        """The lines, then '.' if wanted."""
        yield from self.lines
        if self.end_dot:
            yield "."

    def as_json(self) -> Iterator[str]:
        """An array of the lines."""
        return _json_array(self.lines)

    def as_table(self, view: View) -> Iterator[str]:
        """The lines."""
        return people.prose(self.lines, view.width) if self.prose else (people.clean(line) for line in self.lines)


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
    """A table: each row is one line, and one object of JSON. `line` renders a row for scripts; `rows` may be a generator."""

    columns: tuple[str, ...]
    rows: Iterable[tuple[object, ...]]
    line: Callable[[tuple[Any, ...]], str]
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    units: Mapping[str, Unit] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    """Lines above those of the rows, for scripts only: people have the names of the columns."""
    seen: tuple[str, ...] = ()
    """The columns that people see; empty: all."""

    def as_text(self) -> Iterator[str]:
        """Header and head, a line a row, tail, '.'."""
        yield from self.header
        yield from self.head
        for row in self.rows:
            yield self.line(row)
        yield from self.tail
        yield "."

    def as_json(self) -> Iterator[str]:
        """An array of objects keyed by the columns, one object a line."""
        return _json_array(dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def as_table(self, view: View) -> Iterator[str]:
        """The head, a header and aligned columns, then the tail."""
        yield from self.head
        if self.seen:
            places = [self.columns.index(name) for name in self.seen]
            yield from people.table(self.seen, ([row[place] for place in places] for row in self.rows), self.units, view)
        else:
            yield from people.table(self.columns, self.rows, self.units, view)
        yield from self.tail


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of a list: its names and values, and its lines for scripts."""

    value: Mapping[str, object]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Objects(Reply):
    """A list of things that take several lines each, or whose values are themselves lists and objects."""

    items: Iterable[Item]
    header: tuple[str, ...] = ()
    """Lines above those of the items, for scripts only."""
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    """What people see of each; `a.b` is a member of a member. Empty: all."""
    units: Mapping[str, Unit] = field(default_factory=dict)

    def as_text(self) -> Iterator[str]:
        """Header and head, the lines of each, tail, '.'."""
        yield from self.header
        yield from self.head
        for item in self.items:
            yield from item.lines
        yield from self.tail
        yield "."

    def as_json(self) -> Iterator[str]:
        """An array with an object for each, one a line."""
        return _json_array(item.value for item in self.items)

    def as_table(self, view: View) -> Iterator[str]:
        """The head, a header and aligned columns, then the tail."""
        yield from self.head
        yield from people.records((item.value for item in self.items), self.seen, self.units, view)
        yield from self.tail


@dataclass(frozen=True)
class Facts(Reply):
    """What is known of one thing: one object of JSON. `lines` are those for scripts; without them it is a name and a value a line."""

    facts: Mapping[str, object]
    lines: Iterable[str] | None = None
    units: Mapping[str, Unit] = field(default_factory=dict)

    def as_text(self) -> Iterator[str]:
        """The lines, then '.'."""
        yield from (f"{name} {value}" for name, value in self.facts.items()) if self.lines is None else self.lines
        yield "."

    def as_json(self) -> Iterator[str]:
        """An object, one member a line."""
        return _bracketed("{}", (f"{json.dumps(name)}: {json.dumps(value, default=str)}" for name, value in self.facts.items()))

    def as_table(self, view: View) -> Iterator[str]:
        """Names and values below each other."""
        return people.facts(self.facts, self.units, view)


def _json_array(items: Iterable[object]) -> Iterator[str]:
    """`[`, the items with commas between, `]`. Values JSON has no form for are written as their text."""
    return _bracketed("[]", (json.dumps(item, default=str) for item in items))


def _bracketed(brackets: str, items: Iterable[str]) -> Iterator[str]:
    yield brackets[0]
    waiting: str | None = None
    for item in items:
        if waiting is not None:
            yield waiting + ","
        waiting = "  " + item
    if waiting is not None:
        yield waiting
    yield brackets[1]


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

    def check(self, rules: Iterable[str], terminals: Callable[[str], Iterable[str]] | None = None, owner: str = "") -> list[str]:
        """What does not fit between grammar and handlers, of one owner or of all; one complaint a line. Empty means sound.

        With `terminals` (rule to its terminals' names) the parameters are compared as well.
        """
        rules = frozenset(rules)
        handlers = {rule for rule, of in self.owners.items() if owner in ("", of)}
        complaints = [f"rule without handler {rule}" for rule in sorted(rules - handlers)]
        complaints += [f"handler without rule {rule}" for rule in sorted(handlers - rules)]
        if terminals:
            for rule in sorted(rules & handlers):
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
        for name, word, unsaid in _taken(function):
            kwargs[name] = values.pop(word, unsaid)
        if values:
            raise CommandError(f"the command '{statement.rule}' takes no {', '.join(sorted(values))}")
        return function, kwargs

    def help_topics(self) -> list[str]:
        """Every command that has a handler, sorted."""
        return sorted(self.handlers)

    def help_for(self, rule: str) -> tuple[str, str]:
        """Summary line and what the docstring of a command tells operators: all but `Raises:`.

        Raises: CommandError if there is no such command.
        """
        paragraphs = re.split(r"\n\s*\n", inspect.getdoc(self.handler(rule)) or "")
        text = "\n\n".join(filter(None, map(_for_operators, paragraphs)))
        return text.partition("\n")[0], text


def _for_operators(paragraph: str) -> str:
    """A paragraph without what it says of exceptions."""
    return re.sub(r"(?:^|\n)Raises:.*?(?=\nSource:|\Z)", "", paragraph, flags=re.DOTALL).strip("\n")


_TAKEN: WeakKeyDictionary[Handler, tuple[tuple[str, str, object], ...]] = WeakKeyDictionary()
"""What `_taken` found. A plugin's handlers go with the plugin."""


def _taken(function: Handler) -> tuple[tuple[str, str, object], ...]:
    """What a handler takes after the session: name, word, and what stands for it where it was not said."""
    found = _TAKEN.get(function)
    if found is None:
        found = _TAKEN[function] = tuple(
            (each.name, _word(each.name), None if each.default is each.empty else each.default) for each in _parameters(function)
        )
    return found


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
        raise bad_argument(terminal, error) from error


# --- the default registry ----------------------------------------------------------------------------------

# Handlers of the core language put themselves here when their module is imported.
CORE_COMMANDS = Registry()


def ahead(work: Callable[..., Callable[[], object]]) -> Callable[[F], F]:
    """Mark a handler whose statement has slow work in it, such as an import: nobody is to wait for that when RELOAD CONFIG carries it out.

    `work` gets the session and the texts of the arguments, by the names that the handler has for them, and returns what is called in a
    thread before. What that returns, or the CommandError that it raises, is then in session.made(RULE, TEXT, ...).
    """

    def mark(function: F) -> F:
        function.__dict__["ahead"] = work
        return function

    return mark


def command(function: F) -> F:
    """Record a function, plain or coroutine, as the handler of the core rule it is named after."""
    CORE_COMMANDS.register("core", [function])
    return function
