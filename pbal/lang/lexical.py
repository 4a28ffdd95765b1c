r"""What a line is made of before grammar comes into it: characters, comments, quotes.

A quote that is closed quotes: '#' begins no comment in it, and `\"`, `\\` and `\$` stand for the character after the backslash. A quote
that is never closed quotes nothing. An argument that is wholly in quotes loses them, whatever kind of argument it is.
"""

import re
from collections.abc import Iterator

from pbal.lang.mistakes import Mistake
from pbal.schema.said import Hidden, Said

# Characters. A line longer than this is a mistake in the file, or abuse of the console; it bounds every
# scan here.
MAX_LINE = 65536

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

# Possessive: where the quote is not closed, nothing is tried again, and each of the grammar's terminals tries it.
STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRING = re.compile(STRING)
_INNER = re.compile(r"\\.|[^\\]|\\\Z", re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\$])')

# All the '$' that stand together, and what begins a variable behind them.
VARIABLE = re.compile(
    r"(?P<dollars>\$++)(?:(?P<plain>\w+)"
    r"|\{env:(?P<env>\w+)(?::-(?P<default>[^{}]*))?\}"
    r"|\{file:(?P<path>[^{}]*)\}"
    r"|\{(?:(?P<kind>\w+):)?(?P<name>[\w.:@-]+)\}"
    r"|(?P<open>\{)(?=\w))?",
    re.ASCII,
)


def refuse_control_characters(source: str) -> None:
    """Raises: Mistake for what is no text, or too much of it."""
    if len(source) > MAX_LINE:
        message = f"expected a line of {MAX_LINE} characters at most, found {len(source)}"
        raise Mistake(message, column=1, end=2)
    if match := CONTROL.search(source):
        code = ord(match[0])
        what = "the control character" if code < 0x80 else "a byte that is not UTF-8:"
        message = f"expected text, found {what} {code & 0xFF:#04x}"
        raise Mistake(message, column=match.start() + 1, end=match.end() + 1)


def strings(line: str) -> Iterator[tuple[int, int]]:
    """From where to where a line is quoted, the quotes included."""
    start = line.find('"')
    while start >= 0 and (match := _STRING.match(line, start)):
        yield match.span()
        start = line.find('"', match.end())


def comment_start(line: str) -> int:
    """Offset of the '#' that starts a comment, or the length of the line.

    It stands at the start or after a blank, and not inside quotes. A quote that is never closed quotes nothing.
    """
    found = line.find("#")
    if found < 0:
        return len(line)
    past = len(line), len(line)
    parts = strings(line)
    opened, closed = next(parts, past)
    while found >= 0:
        while closed <= found:
            opened, closed = next(parts, past)
        if opened < found:
            found = line.find("#", closed)
        elif _begins_comment(line, found):
            return found
        else:
            found = line.find("#", found + 1)
    return len(line)


def _begins_comment(line: str, offset: int) -> bool:
    return offset == 0 or line[offset - 1] in " \t"


def unquoted(text: str) -> str:
    r"""An argument without its quotes, \", \\ and \$ resolved; other backslashes stay. Unquoted text is itself.

    Raises: ValueError if it begins with a quote that is not closed, or is closed before the end.
    """
    if not text.startswith('"'):
        return text
    match = _STRING.match(text)
    if not match:
        raise ValueError("the quote is never closed")
    if match.end() != len(text):
        rest = text[match.end() :].strip()
        raise ValueError(f"expected the end of the line after the closing quote, found '{rest}'")
    return _ESCAPE.sub(r"\1", text[1:-1])


def origins(text: str) -> list[int]:
    """For each character of `unquoted(text)`, and for its end, where in `text` it comes from."""
    if not text.startswith('"'):
        return list(range(len(text) + 1))
    found: list[int] = []
    for match in _INNER.finditer(text, 1, len(text) - 1):
        resolved = bool(_ESCAPE.fullmatch(match[0]))
        found += [match.start()] if resolved else range(match.start(), match.end())
    return [*found, len(text) - 1]


def quoted(text: str) -> str:
    """A value as it has to be written to parse back: in quotes only if it needs them.

    Not for a '$' before a word: that is a variable, see `escaped`.
    """
    trimmed = text and text == text.strip(" \t")
    if trimmed and '"' not in text and comment_start(" " + text) == len(text) + 1:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def quoted_word(text: str) -> str:
    """An argument that does not run to the end of the line, as it has to be written to parse back."""
    return quoted(text) if not re.search(r"[\s=]", text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def escaped(text: str) -> str:
    """A text as it has to be written where no '$' of it is to begin a variable."""
    return VARIABLE.sub(lambda match: match[0] if match.lastgroup == "dollars" else match["dollars"] + match[0], text)


def written(text: str) -> str:
    """A value as it has to stand in a statement: as it was written if it has words of its own, else quoted and escaped as it needs."""
    if isinstance(text, Said):
        return text.written
    return str(text) if isinstance(text, Hidden) else escaped(quoted(text))
