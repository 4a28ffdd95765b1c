"""What lines look like that were parsed before: the way past the parser for the ten-thousandth SET of a file.

The grammar decides. When a line has been parsed, the tokens it was made of are its shape, and a shape is one regular expression: at each
token the pattern of its terminal, and before it what must not match there, the terminals that the lexer of that parser state would have
tried first. So a line that a shape matches is lexed to the same kinds of tokens, and the same kinds of tokens are the same statement: only
the texts of the arguments differ. Groups are atomic, as a lexer does not come back to a token either.

A shape is kept by the first word of its line. There are as many as a grammar has statements times what may be left out; fragments with
repetition could have more, so their number for a word is bounded. Where a lexer does more than to match patterns in their order, its lines
have no shape.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lark import Token
from lark.lexer import BasicLexer, TerminalDef

_MOST = 24
"""Shapes of one first word."""

_BLANKS = r"[ \t]*+"


@dataclass(frozen=True, slots=True)
class Shape:
    """One sequence of tokens, the statement that it is, and its arguments."""

    pattern: re.Pattern[str]
    rule: str
    arguments: tuple[tuple[str, int], ...]
    """The terminal of each, and its group of the pattern."""
    json: bool


class Shapes:
    """The shapes of one Language. They only ever grow."""

    def __init__(self) -> None:
        self._by_word: dict[str, list[Shape]] = {}

    def match(self, text: str) -> tuple[Shape, re.Match[str]] | None:
        """The shape of a line, if one like it was seen."""
        word = text.split(None, 1)[0].upper()
        for shape in self._by_word.get(word, ()):
            found = shape.pattern.fullmatch(text)
            if found is not None:
                return shape, found
        return None

    def learn(self, text: str, steps: Sequence[tuple[Token, BasicLexer]], rule: str, arguments: Sequence[Token], json: bool) -> None:
        """Remember a line that was parsed: its tokens with the lexers that found them, and which of them are arguments."""
        word = text.split(None, 1)[0].upper()
        known = self._by_word.setdefault(word, [])
        starts = {token.start_pos for token in arguments}
        parts: list[str] = []
        for token, lexer in steps:
            one = _step(token, lexer, f"_argument{token.start_pos}" if token.start_pos in starts else "")
            if one is None or len(known) >= _MOST:
                return
            parts.append(one)
        pattern = re.compile(_BLANKS + _BLANKS.join(parts) + _BLANKS, re.ASCII)
        groups = pattern.groupindex
        known.insert(0, Shape(pattern, rule, tuple((token.type, groups[f"_argument{token.start_pos}"]) for token in arguments), json))


def _step(token: Token, lexer: BasicLexer, group: str) -> str | None:
    """The pattern of one token, as a group if that has a name; None where the lexer does not go by patterns alone."""
    if lexer.callback or any(_takes_blanks(terminal) for terminal in lexer.terminals if terminal.name not in lexer.ignore_types):
        return None
    before: list[str] = []
    for terminal in lexer.terminals:
        if terminal.name == token.type:
            own = f"(?P<{group}>{_atomic(terminal)})" if group else _atomic(terminal)
            return "".join(f"(?!{other})" for other in before) + own
        if terminal.name not in lexer.ignore_types:
            before.append(_atomic(terminal))
    return None


def _takes_blanks(terminal: TerminalDef) -> bool:
    """Whether a terminal may begin with what is otherwise passed over."""
    pattern = re.compile(terminal.pattern.to_regexp(), re.ASCII)
    return any(pattern.match(blank + "a") for blank in " \t")


def _atomic(terminal: TerminalDef) -> str:
    return f"(?>{terminal.pattern.to_regexp()})"
