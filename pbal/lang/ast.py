"""One statement, as parsed: which rule, which arguments, and where each stood in the line."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument: its text, expanded and unquoted, and where it stood, as 1-based columns [column, end)."""

    text: str
    column: int
    end: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One line that parsed. `args` goes by terminal in lower case; those not said are absent."""

    rule: str
    args: Mapping[str, Arg]
    json: bool
    line: int
    source: str
    file: str

    def __getitem__(self, terminal: str) -> str:
        return self.args[terminal].text

    def get(self, terminal: str) -> str | None:
        """The text of an argument, None if it was not said."""
        arg = self.args.get(terminal)
        return None if arg is None else arg.text
