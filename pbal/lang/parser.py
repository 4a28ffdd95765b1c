"""One line of text to one Statement, by the grammar; and what it knows besides: completion and usage.

Life of a line: comment cut off, variables expanded, parsed (LALR, contextual lexer), arguments unquoted,
columns taken back to the line as it was typed. What cannot be parsed becomes a Mistake that says what was
found and what would do, read off the parser's own state: there is no second list of what may follow what.

A `Language` is immutable. Loading a plugin with statements makes a new one from the old fragments and the
new, and swaps it in; building is lazy (the first line pays, some 50 ms) so that one start-up builds one
parser however many plugins are loaded. Words of the grammar become key words on the way in: matched as
whole words only, before any name. Usage texts come from the text of the grammar, without building anything.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType

from lark import Lark, Token, Tree
from lark.exceptions import LarkError, UnexpectedInput
from lark.lexer import BasicLexer, PatternRE, PatternStr, TerminalDef
from lark.parsers.lalr_interactive_parser import InteractiveParser

from pbal.lang.ast import Arg, Statement
from pbal.lang.expand import Expanded, Filled, expand, masked
from pbal.lang.lexical import MAX_LINE, STRING, comment_start, refuse_control_characters, unquoted
from pbal.lang.mistakes import Mistake, near
from pbal.lang.nearest import elsewhere, halfway
from pbal.lang.shapes import Shapes
from pbal.schema.kinds import Kind, Needed
from pbal.schema.said import Said
from pbal.schema.types import either

# A key word wins over every name, those with a priority of their own (1) included.
_KEY_WORD_PRIORITY = 2

MOST_USAGES = 3
"""Usages that a hint has at most: of more, nobody finds his own."""

# What stands between words. It is no argument.
_BETWEEN = frozenset({"__IGNORE_0"})

# A terminal with this pattern runs to the end of the line, and may be quoted.
_TO_THE_END = r"\S.*"

_ROOTS = frozenset({"statement", "query"})
_DEFINITION = re.compile(r"^(%extend\s+)?[?!]*([a-z_][a-z0-9_]*)(?:\.\d+)?\s*:(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_SYMBOL = re.compile(r'"((?:[^"\\]|\\.)*)"i?(\?)?|([A-Z][A-Z0-9_]*)|([a-z_][a-z0-9_]*)|([\[\]|()?*+])')
_TERMINAL = re.compile(r"^([A-Z][A-Z0-9_]*)(?:\.\d+)?\s*:", re.MULTILINE)
# A terminal that is a key word of its own name: a handler is told whether it was said.
_FLAG = re.compile(r'^([A-Z]+): "\1"i$', re.MULTILINE)
# What holds no name of a terminal, or one such name: strings, comments and patterns are passed over.
_NO_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/(?:[^/\\\n]|\\.)+/|(?<![A-Za-z0-9_])[A-Z][A-Z0-9_]*')
_OWNER = "__OF_"
_IN_QUOTES = 'inside quotes write \\" for a quote'
_WORD = re.compile(rf"{STRING}|[^\s=]+|=", re.ASCII)
# Terminals whose patterns begin so stand for any word; in quotes they may hold blanks as well.
_ANY = (r"\S", "[^")
# What may not follow, at the end of a terminal's pattern: it holds for a quoted text as well.
_LOOKAHEADS = re.compile(r"(?:\(\?[!=][^()]*\))*\Z")
_AT_LINE = re.compile(r"at line (\d+)")
_LONGEST_REASON = 300
"""Characters of what the builder says of a grammar: some of it goes on for pages."""
_UNFINISHED = re.compile(r"[^\s=]*\Z", re.ASCII)


class GrammarMistake(Exception):
    """A grammar that does not build. `plugin` names the fragment at fault, '' is the core's own."""

    def __init__(self, plugin: str, reason: str) -> None:
        owner = f"plugin {plugin}" if plugin else "the core"
        super().__init__(f"the grammar of {owner} does not build: {reason}")
        self.plugin = plugin
        self.reason = reason


# --- grammar files -----------------------------------------------------------------------------------------


@cache
def grammar_directory() -> Path:
    """Where the grammar is: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "grammar"
    return inside if inside.is_dir() else package.parent / "grammar"


@cache
def core_grammar() -> str:
    """The text of pbal.lark."""
    return (grammar_directory() / "pbal.lark").read_text(encoding="utf-8")


@cache
def _flags() -> frozenset[str]:
    """Terminals of the core that are key words."""
    return frozenset(_FLAG.findall(core_grammar()))


@cache
def bundled_fragments() -> Mapping[str, str]:
    """Grammar of the bundled plugins that have statements, by plugin name."""
    files = sorted((grammar_directory() / "plugins").glob("*.lark"))
    return MappingProxyType({file.stem: file.read_text(encoding="utf-8") for file in files})


@cache
def _bundled_usages() -> Mapping[str, tuple[str, ...]]:
    """Usage texts of the bundled plugins' statements, by plugin name."""
    found = {plugin: _definitions(grammar)[0].values() for plugin, grammar in bundled_fragments().items()}
    return MappingProxyType({plugin: tuple(usage for body in bodies for usage in _usage(body)) for plugin, bodies in found.items()})


@lru_cache(maxsize=16)
def _definitions(grammar: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Rule bodies by name, and by name which of `statement` and `query` is extended by it."""
    bodies: dict[str, str] = {}
    statements: dict[str, str] = {}
    for extends, name, body in _DEFINITION.findall(grammar):
        if name in _ROOTS:
            statements.update((symbol[3], name) for symbol in _SYMBOL.findall(body) if symbol[3])
        elif not extends:
            bodies[name] = body
    return MappingProxyType(bodies), MappingProxyType(statements)


def _owned(fragment: str, plugin: str) -> str:
    """A fragment whose own terminals bear the plugin's name, so that two plugins may both have a COUNT."""
    names = frozenset(_TERMINAL.findall(fragment))
    owner = _OWNER + re.sub(r"[^A-Z0-9]", "_", plugin.upper())

    def named(match: re.Match[str]) -> str:
        return match[0] + owner if match[0] in names else match[0]

    return _NO_NAME.sub(named, fragment)


@cache
def _kind(terminal: str) -> str:
    """The kind of argument that a terminal stands for, in lower case, whichever plugin's it is."""
    return terminal.partition(_OWNER)[0].lower()


def _usage(body: str) -> Iterator[str]:
    """Each alternative of a rule as usage text: key words in upper case, arguments as <kind>, [optional]."""
    words: list[str] = []
    depth = 0
    for literal, optional, terminal, _, mark in _SYMBOL.findall(body):
        if mark == "|" and not depth:
            yield _spaced(words)
            words = []
        elif literal:
            words.append(f"[{literal}]" if optional else literal)
        elif terminal or mark:
            words.append(mark or (terminal if terminal in _flags() else f"<{terminal.lower()}>"))
            depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(mark, 0)
    yield _spaced(words)


def _spaced(words: list[str]) -> str:
    return re.sub(r"(?<=[\[(]) | (?=[\])])", "", " ".join(words))


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a statement: its kind, '' for a key word or a sign; as it was written; whether it runs to the end of the line."""

    kind: str
    text: str
    last: bool


# --- the language ------------------------------------------------------------------------------------------


class Language:
    """The statements of the core and of some plugins. Immutable; the parser is built at first use."""

    def __init__(self, fragments: Mapping[str, str] = MappingProxyType({})) -> None:
        self.fragments: Mapping[str, str] = MappingProxyType(dict(fragments))
        self._literals: dict[str, str] = {}
        self._bodies_of_terminals: dict[str, str] = {}
        """Their patterns without quotes and without what may not follow."""
        self._shapes = Shapes()

    # what the text of the grammar says

    @cached_property
    def _bodies(self) -> dict[str, str]:
        bodies: dict[str, str] = {}
        for grammar in (core_grammar(), *self.fragments.values()):
            defined, statements = _definitions(grammar)
            bodies.update((name, defined[name]) for name in statements if name in defined)
        return bodies

    @cached_property
    def queries(self) -> frozenset[str]:
        """Names of the statements that change nothing."""
        said = (_definitions(grammar)[1] for grammar in (core_grammar(), *self.fragments.values()))
        return frozenset(name for roots in said for name, root in roots.items() if root == "query")

    @property
    def rules(self) -> frozenset[str]:
        """Names of all statements."""
        return frozenset(self._bodies)

    def syntax(self, rule: str) -> str:
        """Usage text of a statement, alternatives joined by ' | '. Raises: KeyError for an unknown rule."""
        return " | ".join(_usage(self._bodies[rule]))

    def terminals(self, rule: str) -> tuple[str, ...]:
        """The kinds of argument a statement may have, in lower case. Raises: KeyError for an unknown rule."""
        found = (symbol[2].lower() for symbol in _SYMBOL.findall(self._bodies[rule]))
        return tuple(dict.fromkeys(terminal for terminal in found if terminal))

    # building

    @cached_property
    def _parser(self) -> Lark:
        try:
            return self._built(self.fragments)
        except (LarkError, ValueError, re.error) as error:
            raise self._blame(error) from error

    def _built(self, fragments: Mapping[str, str]) -> Lark:
        own = [_owned(text, plugin) for plugin, text in fragments.items()]
        return Lark(
            "\n".join((core_grammar(), *own)), start="line", parser="lalr", lexer="contextual",
            maybe_placeholders=False, edit_terminals=self._make_key_word, g_regex_flags=re.ASCII,
        )  # fmt: skip

    def _blame(self, error: Exception) -> GrammarMistake:
        """Which fragment it is: the first that does not build on top of those before it."""
        texts: dict[str, str] = {}
        for plugin, text in self.fragments.items():
            texts[plugin] = text
            try:
                self._built(texts)
            except (LarkError, ValueError, re.error) as at_fault:
                before = (core_grammar(), *(text for name, text in texts.items() if name != plugin))
                return GrammarMistake(plugin, _reason(at_fault, len("\n".join(before).split("\n"))))
        return GrammarMistake("", _reason(error))

    def _make_key_word(self, terminal: TerminalDef) -> TerminalDef:
        """Lark matches "ADD"i as a prefix, also of 'address'; key words are whole words. Every argument may be in quotes."""
        if isinstance(terminal.pattern, PatternStr):
            word = terminal.pattern.value
            self._literals[terminal.name] = word
            if _is_word(word):
                terminal.pattern = PatternRE(word + r"(?!\S)", terminal.pattern.flags)
                terminal.priority = _KEY_WORD_PRIORITY
        elif not terminal.pattern.value.endswith(".*") and terminal.name not in _BETWEEN:
            pattern = terminal.pattern.value
            ahead = _LOOKAHEADS.search(pattern)
            body = pattern[: ahead.start()] if ahead else pattern
            self._bodies_of_terminals[terminal.name] = body
            terminal.pattern = PatternRE(f"(?:{STRING}|{body}){pattern[len(body) :]}", terminal.pattern.flags)
        return terminal

    @cached_property
    def _quotable(self) -> frozenset[str]:
        return frozenset(t.name for t in self._parser.terminals if t.pattern.value == _TO_THE_END)

    @property
    def built(self) -> bool:
        """Whether the parser is there; else the first line waits for it."""
        return "_parser" in self.__dict__

    def build(self) -> "Language":
        """Build the parser now, in whatever thread this is. Raises: GrammarMistake."""
        _ = self._parser
        return self

    # parsing

    def parse_line(
        self, text: str, *, file: str = "", line: int = 1, environ: Mapping[str, str] = os.environ, folder: Path | None = None
    ) -> Statement | None:
        """The statement of one line, None if it is empty or all comment. Paths of ${file:PATH} begin at `folder`.

        Raises: Mistake, GrammarMistake.
        """
        source = text.rstrip("\r\n")
        try:
            refuse_control_characters(source)
            code = source[: comment_start(source)] if "#" in source else source
            code = code.rstrip(" \t")
            if not code:
                return None
            expanded = expand(code, environ, folder) if "$" in code else Expanded(code)
            return self._parsed(source, code, expanded, file, line)
        except Mistake as mistake:
            mistake.source, mistake.file, mistake.line = source, file, line
            raise

    def _parsed(self, source: str, code: str, expanded: Expanded, file: str, line: int) -> Statement | None:
        text = expanded.text
        if not text or text.isspace():
            return None
        seen = self._shapes.match(text)
        if seen is None:
            rule, tokens, json = self._statement(expanded, source)
            said = [(token.type, str(token), token.start_pos or 0) for token in tokens]
        else:
            shape, match = seen
            rule, json = shape.rule, shape.json
            said = [(terminal, match[group], match.start(group)) for terminal, group in shape.arguments]
        args = {_kind(terminal): self._arg(terminal, word, start, expanded, source) for terminal, word, start in said}
        return Statement(rule, args, json, line, source, file, code, expanded.warnings)

    def _statement(self, expanded: Expanded, source: str) -> tuple[str, list[Token], bool]:
        """Parse: the rule, the arguments, and whether AS JSON was said. The shape is remembered. Raises: Mistake."""
        text = expanded.text
        try:
            tree = self._parser.parse(text)
        except UnexpectedInput as error:
            raise self._syntax_mistake(expanded, source, error) from error
        said = tree.children[0]
        assert isinstance(said, Tree)  # `line` has one child, a statement or a query
        tokens = [token for token in said.children if isinstance(token, Token)]
        rule, json = str(said.data), tree.data == "as_json"
        self._shapes.learn(text, self._steps(text), rule, tokens, json)
        return rule, tokens, json

    def _steps(self, text: str) -> list[tuple[Token, BasicLexer]]:
        """Each token of a line, and the lexer that found it."""
        interactive = self._parser.parse_interactive(text)
        state = interactive.parser_state
        lexers = self._parser.parser.lexer.lexers
        tokens = interactive.lexer_thread.lex(state)  # type: ignore[no-untyped-call]  # lark declares no types here
        steps: list[tuple[Token, BasicLexer]] = []
        while True:
            lexer = lexers[state.position]
            token = next(tokens, None)
            if token is None:
                return steps
            steps.append((token, lexer))
            interactive.feed_token(token)

    def _arg(self, terminal: str, word: str, start: int, expanded: Expanded, source: str) -> Arg:
        end = start + len(word)
        if not expanded.pieces and word[0] != '"':
            return Arg(word, start + 1, end + 1)
        if terminal in self._quotable:
            word = word.rstrip(" \t")  # an expansion may leave blanks at the end, where the line itself had none
            end = start + len(word)
        column, past = expanded.column(start), expanded.end_column(end)
        whole = terminal in self._quotable or terminal in self._bodies_of_terminals
        try:
            text = unquoted(word) if whole else word
        except ValueError as error:
            raise Mistake(str(error), hint=_IN_QUOTES, column=column, end=past) from error
        filled = Filled(text, word, start, expanded, whole)
        if (word[0] == '"' or filled.values) and not self._fits(terminal, filled.text):
            found = source[column - 1 : past - 1]
            raise Mistake(f"expected {_with_article(_kind(terminal))}, found {found}", kind=Kind.BAD_VALUE, column=column, end=past)
        if filled.values:
            if filled.secret and terminal not in self._quotable:
                message = f"what a file holds is not to be seen, and {_with_article(_kind(terminal))} is"
                raise Mistake(message, kind=Kind.CONFLICT, hint="${env:NAME} may stand here", column=column, end=past)
            return Arg(Said(filled.text, source[column - 1 : past - 1]), column, past, filled.columns)
        return Arg(filled.text, column, past, filled.columns)

    def _fits(self, terminal: str, text: str) -> bool:
        """Whether what was in quotes, or came from a variable, will do where not anything does: for a name, a number."""
        body = self._bodies_of_terminals.get(terminal, _TO_THE_END)
        return body.startswith(_ANY) or bool(re.fullmatch(body, text, re.ASCII))

    # as it was written

    def dissect(self, code: str) -> tuple[str, list[Word]]:
        """The rule of a statement and its words as they were written; variables are not looked up. `code` has no comment.

        Raises: Mistake, GrammarMistake.
        """
        refuse_control_characters(code)
        expanded = masked(code)
        try:
            said = self._parser.parse(expanded.text).children[0]
        except UnexpectedInput as error:
            raise self._syntax_mistake(expanded, code, error) from error
        assert isinstance(said, Tree)
        words: list[Word] = []
        for token, _ in self._steps(expanded.text):
            start = token.start_pos or 0
            column, end = expanded.column(start), expanded.end_column(start + len(token))
            written, literal = code[column - 1 : end - 1].rstrip(" \t"), self._literals.get(token.type)
            if literal is None and token.type in self._quotable | self._bodies_of_terminals.keys():
                try:
                    unquoted(written)
                except ValueError as error:
                    raise Mistake(str(error), hint=_IN_QUOTES, column=column, end=end) from error
            words.append(Word("" if literal is not None else _kind(token.type), literal or written, token.type in self._quotable))
        return str(said.data), words

    # what went wrong

    def _syntax_mistake(self, expanded: Expanded, source: str, error: UnexpectedInput) -> Mistake:
        text = expanded.text
        offset, accepted = self._progress(text)
        match = _WORD.search(text, offset)
        word = match[0] if match else ""
        start, end = match.span() if match else (len(text), len(text) + 1)
        column = expanded.column(start)
        if any(piece.value is not None for piece in expanded.pieces):  # shown as it was written
            word = source[column - 1 : expanded.end_column(end) - 1] if word else ""
        place = column, max(column + 1, expanded.end_column(end))
        if word[:1] == '"' and not re.match(STRING, word):
            return Mistake("the quote is never closed", hint=_IN_QUOTES, column=column, end=place[1])
        if not text[:start].strip(" \t"):
            return self._misunderstood(f"'{word}' is not a statement", Kind.UNKNOWN_STATEMENT, text, word, accepted, place)
        found = f"'{word}'" if word else "the end of the line"
        return self._misunderstood(f"expected {self._in_words(accepted)}, found {found}", Kind.SYNTAX, text, word, accepted, place)

    def _progress(self, text: str) -> tuple[int, set[str]]:
        """How far the text parses, as an offset, and the terminals that would do there."""
        interactive = self._parser.parse_interactive(text)
        offset = len(text)
        try:
            interactive.exhaust_lexer()
        except UnexpectedInput as error:
            offset = error.pos_in_stream or 0
        if not text[:offset].strip(" \t"):
            return offset, self._beginnings
        return offset, _accepted(interactive)

    @cached_property
    def _beginnings(self) -> set[str]:
        """The terminals that a statement may begin with. To ask the parser takes a millisecond."""
        return _accepted(self._parser.parse_interactive(""))

    def _in_words(self, accepted: set[str]) -> str:
        """'ADD, REMOVE or a pool name'."""
        key_words = sorted(self._literals[name] for name in accepted if name in self._literals)
        quoted = [word if _is_word(word) else f"'{word}'" for word in key_words]
        kinds = sorted({_kind(name) for name in accepted if name not in self._literals and name != "$END"})
        named = ["AS JSON" if word == "AS" else word for word in quoted]
        named += [_with_article(kind) for kind in kinds]
        if "$END" in accepted:
            named.append("the end of the line")
        return either(named)

    def _misunderstood(self, message: str, kind: Kind, text: str, word: str, accepted: set[str], place: tuple[int, int]) -> Mistake:
        """A mistake with what would help: the plugin that has the statement, the key word that was meant, or the usage."""
        column, end = place
        words = text.upper().split()
        every = self._every_usage
        if not any(_begins(usage, words) for usage in every) and (plugin := self._plugin_with(words[:2])):
            hint, needs = f"LOAD {plugin} adds this statement", Needed("load", plugin)
            return Mistake(message, kind=kind, subject=word, hint=hint, needs=needs, column=column, end=end)
        key_words = [self._literals[name] for name in accepted if name in self._literals]
        key_words = [key_word for key_word in key_words if _is_word(key_word)]
        hint = halfway(word, key_words)
        meant = () if hint else near(word, key_words)
        if not hint and not meant:
            usages = self._usages(words)
            if word.endswith(";"):
                hint = "one statement a line, without ';'"
            elif word and "NEW_NAME" in accepted:
                hint = "a name is made of letters, digits, '_' and '-'"
            hint = hint or elsewhere(words, every) or (f"usage: {' | '.join(usages)}" if 0 < len(usages) <= MOST_USAGES else "")
        return Mistake(message, kind=kind, subject=word, candidates=meant, hint=hint, column=column, end=end)

    def _plugin_with(self, words: list[str]) -> str:
        """The bundled plugin, not loaded, whose statements begin with these words; '' if none does."""
        for plugin, usages in _bundled_usages().items():
            if plugin not in self.fragments and any(_begins(usage, words) for usage in usages):
                return plugin
        return ""

    @cached_property
    def _every_usage(self) -> tuple[str, ...]:
        return tuple(usage for _, body in sorted(self._bodies.items()) for usage in _usage(body))

    def _usages(self, words: list[str]) -> list[str]:
        same_verb = [usage for usage in self._every_usage if _begins(usage, words[:1])]
        found = [usage for usage in same_verb if len(words) > 1 and _begins(usage, words[:2])] or same_verb
        if len(found) <= MOST_USAGES:
            return found
        most = max(_key_words(usage, words) for usage in found)
        return [usage for usage in found if _key_words(usage, words) == most]

    # completion

    def expected(self, text_before_cursor: str) -> list[str]:
        """What could follow, empty where the text is already wrong: first key words in upper case, those that
        begin like the unfinished word, and '='; then kinds of argument in lower case ('pool_name').
        """
        place = self.completing(text_before_cursor)
        return [*place.literals, *place.kinds]

    def completing(self, text_before_cursor: str) -> "Place":
        """Where the line stands at the cursor: what is unfinished, what was said before it, and what could stand there."""
        text = text_before_cursor[:MAX_LINE]
        try:
            tokens, _ = self._so_far(text)
        except UnexpectedInput:
            tokens = []
        if tokens and tokens[-1].type in self._quotable:  # it runs to the end of the line, blanks included
            last = tokens.pop()
            return self._place(last.start_pos or 0, tokens, {last.type}, "")
        unfinished = _UNFINISHED.search(text)
        start = unfinished.start() if unfinished else 0
        object_name, dot, _ = text[start:].partition(".")
        if dot:
            place = self._placed(text, start + len(object_name) + 1)
            if list(place.kinds) == ["tunable"]:
                return place
        return self._placed(text, start)

    def _placed(self, text: str, start: int) -> "Place":
        """What could stand at `start`. A terminal that looks ahead (OWNER_NAME) needs a word to be there, so it is tried with one, too."""
        before = text[:start]
        tokens: list[Token] = []
        accepted: set[str] = set()
        with contextlib.suppress(UnexpectedInput):
            tokens, accepted = self._so_far(before)
        with contextlib.suppress(UnexpectedInput):
            tried, _ = self._so_far(before + "x")
            if tried and tried[-1].start_pos == start and tried[-1].type not in accepted:
                tokens, accepted = tried[:-1], accepted | {tried[-1].type}
        return self._place(start, tokens, accepted, text[start:])

    def _so_far(self, text: str) -> tuple[list[Token], set[str]]:
        """The tokens of a text, and the terminals that would do next. Raises: UnexpectedInput."""
        interactive = self._parser.parse_interactive(text)
        return interactive.exhaust_lexer(), _accepted(interactive)

    def _place(self, start: int, tokens: list[Token], accepted: set[str], word: str) -> "Place":
        literals = (self._literals[name] for name in accepted if name in self._literals)
        kinds = {_kind(name): name.partition(_OWNER)[2].lower() for name in accepted if name not in self._literals and name != "$END"}
        said = tuple(("", self._literals[t.type]) if t.type in self._literals else (_kind(t.type), str(t)) for t in tokens)
        fitting = tuple(sorted(text for text in literals if text.startswith(word.upper())))
        return Place(start, said, fitting, MappingProxyType(dict(sorted(kinds.items()))))


def language_of(fragments: Mapping[str, str]) -> Language:
    """The Language of these fragments by plugin. One that was asked for lately is the same again, with its parser."""
    return _shared(tuple(sorted(fragments.items())))


@lru_cache(maxsize=4)
def _shared(fragments: tuple[tuple[str, str], ...]) -> Language:
    return Language(dict(fragments))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line stands at the cursor."""

    start: int
    """Offset of what is unfinished: a word, or an argument that runs to the end of the line."""
    said: tuple[tuple[str, str], ...]
    """What was said before it: the kind of argument, '' for a key word, and its text."""
    literals: tuple[str, ...]
    """Key words and marks that could stand there and begin like it."""
    kinds: Mapping[str, str]
    """Kinds of argument that could, and the plugin (in lower case, '_' for '-') whose each is; '' is the core."""

    def argument(self, kind: str) -> str | None:
        """The argument of that kind that was said, None if none was."""
        return next((text for said, text in self.said if said == kind), None)


def _is_word(literal: str) -> bool:
    """Whether a literal of the grammar is a key word, and no sign."""
    return literal.replace("_", "").isalnum()


def _accepted(interactive: InteractiveParser) -> set[str]:
    """Names of the terminals that would do next; '$END' is the end of the line."""
    return set(interactive.accepts())  # type: ignore[no-untyped-call]  # lark declares no return type


def _reason(error: Exception, before: int = 0) -> str:
    """What the builder says, on one line. `before`: lines of grammar before the fragment at fault."""
    told = " ".join(str(error).split())[:_LONGEST_REASON]
    return _AT_LINE.sub(lambda match: f"at line {max(1, int(match[1]) - before)}", told)


def _with_article(kind: str) -> str:
    noun = kind.lower().replace("_", " ")
    if noun.endswith("s"):  # files, words
        return noun
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _key_words(usage: str, words: list[str]) -> int:
    """How many key words a usage text and these upper-case words have in common, up to where they differ or something may be left out."""
    count = 0
    for said, word in zip(usage.split(), words, strict=False):
        if said == word:
            count += 1
        elif not said.startswith("<"):
            break
    return count


def _begins(usage: str, words: list[str]) -> bool:
    """Whether a usage text begins with these upper-case words; an argument stands for any word."""
    said = usage.split()
    return 0 < len(words) <= len(said) and all(
        said_word == word or said_word.startswith(("<", "[")) for said_word, word in zip(said, words, strict=False)
    )
