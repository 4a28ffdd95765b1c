"""Variables: what stands for something else in a line, and the way back from it to the columns of the source.

There are two kinds. $NAME, ${NAME} and ${ip:eth0} are Perlbal's: text, put in place before the line is parsed, which may be a part of a
word, a word or several. ${env:NAME}, ${env:NAME:-DEFAULT} and ${file:PATH} are values: they stand inside one argument, whatever characters
they hold, and are put in place when the line is parsed. Until then a mark stands for each, a word like any other. An
argument that holds one is shown as it was written, never its value (schema/said.py).

Unlike in Perlbal an unknown name is a mistake: an empty string in its place makes a valid line that means something else. The comment is
cut off before: a '#' in the environment never starts one.

Where a variable would begin, '$$' is one '$' and no variable: '$$HOME' is the text $HOME; inside quotes '\\$' is one as well. A '$' that is
not followed by a word character or '{' and a word character stays, so a regular expression may end in '$', or in '$$'. `lexical.escaped` is
the way back. An address is asked of the kernel by ioctl; no program is run.
"""

import errno
import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pbal.lang.lexical import CONTROL, VARIABLE, strings
from pbal.lang.lexical import origins as origins_of
from pbal.lang.mistakes import Mistake
from pbal.schema.kinds import Kind

# Inside quotes a backslash takes the meaning from the character after it.
_IN_QUOTES = re.compile(rf"\\.|{VARIABLE.pattern}", re.ASCII | re.DOTALL)

# A word that is no key word, wherever it stands.
MARK = "_V_"

# Characters; a few variables repeated must not fill the memory. Of a file, octets: a token or a key, not a document.
MAX_EXPANDED = 262144
MAX_SECRET = 65536

# linux/sockios.h; struct ifreq is a name of 16 octets and a sockaddr, whose IPv4 address is octets 4 to 8.
_SIOCGIFADDR = 0x8915
_INTERFACE_NAME_OCTETS = 15
_IFREQ_OCTETS = 40


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of the expanded text that replaced a stretch of the source; 0-based offsets."""

    start: int
    end: int
    source_start: int
    source_end: int
    value: str | None
    """What the mark stands for at its end; None if there is none."""
    secret: bool
    """Whether that is from a file."""


@dataclass(slots=True)
class Expanded:
    """An expanded line, the way back from its offsets to columns of the source line, and what was odd about it."""

    text: str
    pieces: list[_Piece] = field(default_factory=list)
    warnings: tuple[str, ...] = ()

    def column(self, offset: int) -> int:
        """The 1-based source column of an offset; inside an expansion it is that of its '$'."""
        shift = 0
        for piece in self.pieces:
            if offset < piece.start:
                break
            if offset < piece.end:
                return piece.source_start + 1
            shift = piece.source_end - piece.end
        return offset + shift + 1

    def end_column(self, offset: int) -> int:
        """The 1-based source column just past an end offset; inside an expansion, just past the variable."""
        shift = 0
        for piece in self.pieces:
            if offset <= piece.start:
                break
            if offset <= piece.end:
                return piece.source_end + 1
            shift = piece.source_end - piece.end
        return offset + shift + 1

    def values(self, start: int, end: int) -> list[_Piece]:
        """The pieces in a stretch of the expanded text that end in a mark."""
        return [piece for piece in self.pieces if piece.value is not None and start < piece.end <= end]


class Filled:
    """One argument with its values in place of their marks, and the way back from its offsets to columns."""

    __slots__ = ("_expanded", "_origins", "secret", "text", "values")

    def __init__(self, text: str, word: str, start: int, expanded: Expanded, quotable: bool) -> None:
        """`word` is the argument as it stands in the expanded text from `start` on, `text` the same without the quotes it may have."""
        self._expanded = expanded
        self.values = expanded.values(start, start + len(word))
        self.secret = any(piece.secret for piece in self.values)
        origins = [start + offset for offset in (origins_of(word) if quotable else range(len(word) + 1))]
        parts: list[str] = []
        back: list[int] = []
        taken = 0
        for piece in self.values:
            mark = origins.index(piece.end - len(MARK))
            value = piece.value or ""
            parts += (text[taken:mark], value)
            back += origins[taken:mark]
            back += [piece.start] * len(value)
            taken = mark + len(MARK)
        self.text = "".join(parts) + text[taken:]
        self._origins = back + origins[taken:]

    def columns(self, start: int, end: int) -> tuple[int, int]:
        """The columns of a part of the text, 0-based offsets [start, end)."""
        last = self._origins[max(start, end - 1)]
        return self._expanded.column(self._origins[start]), self._expanded.end_column(last + 1)


def expand(text: str, environ: Mapping[str, str], folder: Path | None = None) -> Expanded:
    """Replace every variable of a line. Relative paths of files begin at `folder`; None is the working directory.

    Raises: Mistake, with columns, for what cannot be had.
    """
    return _Expansion(text, environ, folder).done()


def masked(text: str) -> Expanded:
    """A line with a mark for each variable, whatever it stands for, and all else as it is. No variable is looked up."""
    parts: list[str] = []
    pieces: list[_Piece] = []
    taken = length = 0
    for match in _found(text):
        dollars = match["dollars"]
        if dollars is None or match.lastgroup == "dollars" or len(dollars) % 2 == 0:
            continue
        begin = match.end("dollars") - 1
        length += begin - taken
        parts += (text[taken:begin], MARK)
        pieces.append(_Piece(length, length + len(MARK), begin, match.end(), None, False))
        length += len(MARK)
        taken = match.end()
    return Expanded("".join(parts) + text[taken:], pieces)


def placed(written: str, folder: Path) -> str:
    """An argument as it was written, with the relative paths of its ${file:PATH} made absolute: they begin at `folder`."""
    parts: list[str] = []
    taken = 0
    for match in _found(written):
        if match["dollars"] and match["path"]:
            parts += (written[taken : match.start("path")], str(folder / match["path"]))
            taken = match.end("path")
    return "".join(parts) + written[taken:]


def files_in(written: str, folder: Path) -> list[Path]:
    """The files that the ${file:PATH} of an argument name, as it was written."""
    return [folder / match["path"] for match in _found(written) if match["dollars"] and match["path"]]


def _found(text: str) -> Iterator[re.Match[str]]:
    """The variables of a line, and in quotes what is behind a backslash."""
    start = 0
    if "\\$" in text:
        for opened, closed in strings(text):
            yield from VARIABLE.finditer(text, start, opened)
            yield from _IN_QUOTES.finditer(text, opened + 1, closed - 1)
            start = closed
    yield from VARIABLE.finditer(text, start)


class _Expansion:
    """One line on its way from its source to what is parsed."""

    def __init__(self, text: str, environ: Mapping[str, str], folder: Path | None) -> None:
        self._text = text
        self._environ = environ
        self._folder = folder
        self._warnings: list[str] = []

    def done(self) -> Expanded:
        text = self._text
        parts: list[str] = []
        pieces: list[_Piece] = []
        taken = length = held = 0
        for match, end, value, data in self._replaced():
            before = text[taken : match.start()]
            start = length + len(before)
            length = start + len(value)
            taken = end
            parts += (before, value)
            pieces.append(_Piece(start, length, match.start(), end, data, match["path"] is not None))
            held += len(before) + len(value) + len(data or "")
            if held > MAX_EXPANDED:
                raise Mistake(f"the variables make the line longer than {MAX_EXPANDED} characters")
        return Expanded("".join(parts) + text[taken:], pieces, tuple(self._warnings))

    def _replaced(self) -> Iterator[tuple[re.Match[str], int, str, str | None]]:
        """What is replaced: the match, where in the text it ends, by what, and the value for which a mark stands at the end of that."""
        for match in _found(self._text):
            dollars = match["dollars"]
            if dollars is None or match.lastgroup == "dollars":
                continue
            kept = dollars[: len(dollars) // 2]
            if len(dollars) % 2 == 0:
                yield match, match.end("dollars"), kept, None
                continue
            try:
                text, value = self._value(match)
            except Mistake as mistake:
                mistake.column, mistake.end = match.end("dollars"), match.end() + 1
                raise
            yield match, match.end(), kept + text, value

    def _value(self, match: re.Match[str]) -> tuple[str, str | None]:
        """The text in place of a variable; and, where that is a mark, the value."""
        plain, kind, name = match["plain"], match["kind"], match["name"]
        if match["open"]:
            raise Mistake("expected a name and '}' after '${'")
        if match["path"] is not None:
            return MARK, self._first_line(match["path"])
        if match["env"] is not None:
            default = match["default"]
            unset = default is not None and not self._environ.get(match["env"])
            return MARK, default if unset else self._variable(match["env"])
        if kind is None:
            return self._variable(plain or name), None
        if kind != "ip":
            raise Mistake(f"'{kind}' is not a type of variable, expected env, file or ip as in ${{ip:eth0}}", kind=Kind.UNKNOWN_NAME)
        return interface_address(name), None

    def _variable(self, name: str) -> str:
        environ = self._environ
        if name not in environ:
            hint = "" if name.isupper() else f"$${name} is the text ${name}"  # one of the environment is in upper case
            raise Mistake(f"'{name}' is not in the environment", kind=Kind.UNKNOWN_NAME, subject=name, candidates=environ, hint=hint)
        value = environ[name]
        if CONTROL.search(value):
            raise Mistake(f"'{name}' in the environment holds a line end or another control character", kind=Kind.BAD_VALUE)
        return value

    def _first_line(self, path: str) -> str:
        """The first line of a file, without its line end."""
        if not path:
            raise Mistake("expected the path of a file after '${file:'")
        place = Path(path) if self._folder is None else self._folder / path
        try:
            data = self._read(place, path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Mistake(f"cannot read {path}: {reason or error}", kind=Kind.SYSTEM) from None
        line = data.partition(b"\n")[0].removesuffix(b"\r")
        try:
            value = line.decode()
        except UnicodeDecodeError:
            raise Mistake(f"the first line of {path} is not UTF-8", kind=Kind.BAD_VALUE) from None
        if len(line) > MAX_SECRET:
            raise Mistake(f"the first line of {path} is longer than {MAX_SECRET} octets", kind=Kind.BAD_VALUE)
        if CONTROL.search(value):
            raise Mistake(f"the first line of {path} holds a control character", kind=Kind.BAD_VALUE)
        if not value:
            raise Mistake(f"the first line of {path} is empty", kind=Kind.BAD_VALUE)
        return value

    def _read(self, place: Path, path: str) -> bytes:
        # A pipe without a writer would hold up whoever opens it.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is no plain file")
            if mode & stat.S_IROTH:
                self._warnings.append(f"others can read {path}: chmod o-r keeps what it holds secret")
            return os.read(descriptor, MAX_SECRET + 2)
        finally:
            os.close(descriptor)


def interface_address(name: str) -> str:
    """The first IPv4 address of an interface. Raises: Mistake if there is none. Source: netdevice(7)."""
    octets = name.encode()
    if len(octets) <= _INTERFACE_NAME_OCTETS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack(f"{_IFREQ_OCTETS}s", octets))
                return socket.inet_ntoa(answer[20:24])
            except OSError:
                known = {interface for _, interface in socket.if_nameindex()} - {name}
                message = f"the interface '{name}' has no IPv4 address"
                raise Mistake(message, kind=Kind.UNKNOWN_NAME, subject=name, candidates=known) from None
    raise Mistake(f"'{name}' is too long for the name of an interface", kind=Kind.UNKNOWN_NAME)
