"""Mistakes: what the operator reads when a line is refused, and the guess at what was meant.

Four lines: where and what, the line itself, the word underlined, the likely fix. Config and console print
the same text; a console line has no file, so its headline is the message alone.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pbal.lang.ast import Statement
from pbal.schema.commands import CommandError, parameter_name

# Control characters would move the underline, or write to the operator's terminal. A tab stays: it is
# copied into the line of the underline.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Longer lines are shown as the stretch around the word at fault.
_SHOWN = 160


class Mistake(Exception):
    """A line that is refused. Columns are 1-based, [column, end); column 0 underlines nothing."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        column: int = 0,
        end: int = 0,
        line: int = 0,
        source: str = "",
        file: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.column = column
        self.end = end
        self.line = line
        self.source = source
        self.file = file

    def __str__(self) -> str:
        return self.headline

    @property
    def headline(self) -> str:
        """`file:line:column: message`; without a file the message alone."""
        if not self.file:
            return _printable(self.message)
        place = f"{self.file}:{self.line}" + (f":{self.column}" if self.column else "")
        return _printable(f"{place}: {self.message}")

    def in_one_line(self) -> str:
        """Message and hint, for the console."""
        text = f"{self.message}: {self.hint}" if self.hint else self.message
        return _printable(" ".join(text.split("\n")))

    def render(self) -> str:
        """The whole text, joined by newlines: headline, the line, the underline, the hint if there is one."""
        lines = [self.headline]
        if self.source:
            lines += self._quoted()
        if self.hint:
            lines.append("  " + _printable(self.hint))
        return "\n".join(lines)

    def _quoted(self) -> list[str]:
        number = str(self.line) if self.file else ""
        first = max(0, self.column - 1 - _SHOWN // 2) if len(self.source) > _SHOWN else 0
        shown = _printable(self.source[first : first + _SHOWN])
        lines = [f"{number:>5} | {shown}".rstrip()]
        if self.column:
            start = self.column - 1 - first
            before = "".join("\t" if character == "\t" else " " for character in shown[:start])
            width = max(1, min(self.end - self.column, len(shown) - start))
            lines.append(f"{'':5} | {before.ljust(start)}{'^' * width}")
        return lines


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def suggest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate nearest to `word`, None if none is near. Case does not count."""
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    near = get_close_matches(word[:64].lower(), by_folded, n=1, cutoff=0.7)
    return by_folded[near[0]] if near else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A hint for `Mistake` or `CommandError`: "did you mean 'x'?", or '' if nothing is near."""
    near = suggest(word, candidates)
    return f"did you mean '{near}'?" if near else ""


def positioned(error: CommandError, statement: Statement) -> Mistake:
    """A command's refusal as a mistake in its line; underlines the argument at fault or the statement."""
    column, end = _extent(error, statement)
    return Mistake(
        error.message,
        hint=error.hint,
        column=column,
        end=end,
        line=statement.line,
        source=statement.source,
        file=statement.file,
    )


def _extent(error: CommandError, statement: Statement) -> tuple[int, int]:
    for terminal, arg in statement.args.items():
        if error.arg and error.arg in (terminal, parameter_name(terminal)):
            return arg.column, arg.end
    text = statement.source
    blanks = len(text) - len(text.lstrip(" \t"))
    return blanks + 1, len(text.rstrip(" \t")) + 1
