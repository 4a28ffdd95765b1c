"""One statement, as parsed: which rule, which arguments, and where each stood in the line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Arg:
    """One argument: its text, unquoted and with the values of variables, and where it stood, as 1-based columns [column, end).

    The text is a `schema.said.Said` where variables made it that are shown as they were written.
    """

    text: str
    column: int
    end: int
    columns: Callable[[int, int], tuple[int, int]] | None = field(default=None, compare=False, repr=False)
    """From offsets into the text to columns, where they are not just that far behind `column`."""

    def part(self, start: int, end: int) -> tuple[int, int]:
        """The columns of a part of the text, 0-based offsets [start, end). What a variable gave has the columns of the variable."""
        if self.columns is not None:
            return self.columns(start, end)
        return self.column + start, self.column + max(end, start + 1)


@dataclass(slots=True)
class Statement:
    """One line that parsed. `args` goes by terminal in lower case; those not said are absent."""

    rule: str
    args: Mapping[str, Arg]
    json: bool
    line: int
    source: str
    file: str
    code: str = field(compare=False, repr=False)
    """The source without its comment."""
    warnings: tuple[str, ...] = ()
    """What is to be said about it though it is good."""

    def __getitem__(self, terminal: str) -> str:
        return self.args[terminal].text

    def get(self, terminal: str) -> str | None:
        """The text of an argument, None if it was not said."""
        arg = self.args.get(terminal)
        return None if arg is None else arg.text

    @property
    def extent(self) -> tuple[int, int]:
        """The columns of the statement, without the blanks and the comment around it."""
        return len(self.code) - len(self.code.lstrip(" \t")) + 1, len(self.code.rstrip(" \t")) + 1
