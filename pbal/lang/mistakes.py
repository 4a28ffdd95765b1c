"""Mistakes: what the operator reads when a line is refused, and the guess at what was meant.

A Mistake is a value: its kind, its place, the word it is about, what that word might have been, and a second place where something else is
involved ("created here"). Text, text in colour and JSON are made from it (`render`, `as_object`). What is decided about a mistake is
decided by its kind and its other fields; the words are for people.

The text has up to five lines: where and what, the line itself, the word underlined, the likely fix, the second place. Config and console
print the same text; a console line has no file, so its headline is the message alone.

Names near to a word are looked for when somebody asks: a file may have ten thousand mistakes, and the first fifty are shown.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from types import MappingProxyType

from pbal.lang.ast import Statement
from pbal.schema.commands import CommandError, parameter_name
from pbal.schema.kinds import Key, Kind, Needed, Severity
from pbal.schema.people import columns_of
from pbal.schema.said import Said, shown

# Control characters would move the underline, or write to the operator's terminal. A tab stays: it is
# copied into the line of the underline.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Longer lines are shown as the stretch around the word at fault.
_SHOWN = 160

# Of a difflib ratio: how alike two words have to be, and two parts of names of several words.
_ALIKE = 0.7
_PARTS_ALIKE = 0.6
_MOST_NEAR = 3

# ECMA-48, Select Graphic Rendition.
_BOLD, _RED, _YELLOW, _GREEN, _PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[1;35m", "\x1b[32m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was said. Columns are 1-based, [column, end)."""

    file: str
    line: int
    column: int
    end: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


Places = Mapping[Key, Place]
"""Where what was said stands."""

_NOTES = {"service": "created here", "pool": "created here", "plugin": "loaded here", "enable": "enabled here"}
"""What was done at the second place, by the first word of its key."""


@dataclass(frozen=True, slots=True)
class Second:
    """The other place that a mistake is about: what was done there ("created here")."""

    note: str
    place: Place


class Mistake(Exception):
    """A line that is refused, or that a warning is about. Columns are 1-based, [column, end); column 0 underlines nothing.

    `hint` is advice in words. Where there is none, `candidates` (what the subject might have been) make one.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = Kind.SYNTAX,
        severity: Severity = Severity.ERROR,
        subject: str = "",
        candidates: Iterable[str] = (),
        hint: str = "",
        needs: Needed | None = None,
        second: Second | None = None,
        column: int = 0,
        end: int = 0,
        line: int = 0,
        source: str = "",
        file: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.severity = severity
        self.subject = shown(subject)
        self.needs = needs
        self.second = second
        self.column = column
        self.end = end
        self.line = line
        self.source = source
        self.file = file
        self._candidates = candidates
        self._hint = hint
        self._near: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.headline

    @property
    def near(self) -> tuple[str, ...]:
        """What the subject might have been, the likeliest first: a few, or none."""
        if self._near is None:
            self._near = near(self.subject, self._candidates)
        return self._near

    @property
    def hint(self) -> str:
        """What would help, in words; "" if nothing is known to."""
        return self._hint or (f"did you mean '{self.near[0]}'?" if self.near else "")

    @hint.setter
    def hint(self, text: str) -> None:
        self._hint = text

    @property
    def headline(self) -> str:
        """`file:line:column: message`; without a file the message alone. A warning says that it is one."""
        message = f"warning: {self.message}" if self.severity is Severity.WARNING else self.message
        return _printable(f"{self._where()}: {message}" if self.file else message)

    def _where(self) -> str:
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])

    def in_one_line(self) -> str:
        """Message and hint, for the console."""
        text = f"{self.message}: {self.hint}" if self.hint else self.message
        return _printable(" ".join(text.split("\n")))

    def render(self, colour: bool = False) -> str:
        """The whole text, joined by newlines: headline, the line, the underline, the hint, the second place. Colours are ECMA-48's."""
        tint = _RED if self.severity is Severity.ERROR else _YELLOW
        lines = [_tinted(self.headline, _BOLD, colour)]
        if self.source:
            lines += self._quoted(tint if colour else "")
        if self.hint:
            lines.append("  " + _tinted(_printable(self.hint), _GREEN, colour))
        if self.second is not None:
            lines.append(_printable(f"  {self.second.note}: {self.second.place}"))
        return "\n".join(lines)

    def as_object(self) -> dict[str, object]:
        """The mistake for JSON: strings, numbers (1-based; 0 where no word is at fault), lists, and null where nothing is known."""
        second = self.second
        return {
            "file": self.file, "line": self.line, "column": self.column, "end": self.end,
            "kind": self.kind.value, "severity": self.severity.value, "message": _printable(self.message),
            "subject": _printable(self.subject) or None, "hint": _printable(self.hint) or None, "candidates": list(self.near),
            "second": None if second is None else {
                "note": second.note, "file": second.place.file, "line": second.place.line,
                "column": second.place.column, "end": second.place.end,
            },
        }  # fmt: skip

    def _quoted(self, tint: str) -> list[str]:
        number = str(self.line) if self.file else ""
        first = max(0, self.column - 1 - _SHOWN // 2) if len(self.source) > _SHOWN else 0
        shown = _printable(self.source[first : first + _SHOWN])
        lines = [f"{number:>5} | {shown}".rstrip()]
        if self.column:
            start = self.column - 1 - first
            before = "".join("\t" if character == "\t" else " " * columns_of(character) for character in shown[:start])
            before += " " * (start - len(shown))
            width = max(1, columns_of(shown[start : start + self.end - self.column]))
            lines.append(f"{'':5} | {before}{_tinted('^' * width, tint, bool(tint))}")
        return lines


def _tinted(text: str, tint: str, colour: bool) -> str:
    return f"{tint}{text}{_PLAIN}" if colour else text


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


# --- names that are near ------------------------------------------------------------------------------------


def near(word: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """The candidates that `word` may have been meant for, the nearest first. Case does not count.

    Names of several words are near if their words are: verify_backend has nine letters with persist_backend in common and is another thing.
    """
    if not word:
        return ()
    folded = word[:64].lower()
    by_folded = {candidate.lower(): candidate for candidate in candidates if candidate != word}
    alike = get_close_matches(folded, by_folded, n=_MOST_NEAR, cutoff=_ALIKE)
    return tuple(by_folded[name] for name in alike if _parts_alike(folded, name))


def _parts_alike(word: str, name: str) -> bool:
    """Whether the words that two names do not share are alike, too."""
    said, known = _parts(word), _parts(name)
    for part in [part for part in said if part in known]:
        if part in known:
            said.remove(part)
            known.remove(part)
    if not said or not known or "".join(said) == "".join(known):
        return True
    return SequenceMatcher(None, "".join(said), "".join(known)).ratio() >= _PARTS_ALIKE


def _parts(name: str) -> list[str]:
    return re.split(r"[_\s.-]+", name)


def suggest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate nearest to `word`, None if none is near. Case does not count."""
    found = near(word, candidates)
    return found[0] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A hint for `Mistake` or `CommandError`: "did you mean 'x'?", or '' if nothing is near."""
    found = suggest(word, candidates)
    return f"did you mean '{found}'?" if found else ""


# --- where --------------------------------------------------------------------------------------------------


def positioned(error: CommandError, statement: Statement, places: Places = MappingProxyType({})) -> Mistake:
    """A command's refusal as a mistake in its line; underlines the argument at fault, or the statement."""
    column, end, subject = _extent(error, statement)
    place = places.get(error.against)
    return Mistake(
        _as_written(error.message, statement),
        kind=error.kind,
        subject=error.subject or subject,
        candidates=error.candidates,
        hint=_as_written(error.hint, statement),
        needs=error.needs,
        second=None if place is None else Second(_NOTES.get(error.against[0], "set here"), place),
        column=column,
        end=end,
        line=statement.line,
        source=statement.source,
        file=statement.file,
    )


def _as_written(text: str, statement: Statement) -> str:
    """A text for people about a statement: what its variables stand for is shown as it was written."""
    for arg in statement.args.values():
        if isinstance(arg.text, Said) and arg.text:
            value = "|".join(re.escape(form) for form in (str(arg.text), repr(str(arg.text))[1:-1]))
            written = arg.text.written  # may hold the value: a default
            text = written.join(re.split(rf"{re.escape(written)}|(?<!\w)(?:{value})(?!\w)", text))
    return text


def _extent(error: CommandError, statement: Statement) -> tuple[int, int, str]:
    """From which column to which, and the text of the argument that stands there."""
    for terminal, arg in statement.args.items():
        if error.arg and error.arg in (terminal, parameter_name(terminal)):
            column, end = arg.part(*error.span) if error.span else (arg.column, arg.end)
            return column, end, arg.text
    return *statement.extent, ""
