"""$NAME, ${NAME} and ${ip:eth0}: expansion of a line before it is parsed, with columns that still point home.

Expansion is textual, as in Perlbal, so it works anywhere in a line. Unlike there, an unknown name is a
mistake (an empty string in its place makes a valid line that means something else), and the comment is cut
off before: a '#' in the environment never starts one.

Where a variable would begin, '$$' is one '$' and no variable: '$$HOME' is the text $HOME. A '$' that is not followed by a word
character or '{' and a word character stays, so a regular expression may end in '$', or in '$$'. `escaped` is the way back.
An address is asked of the kernel by ioctl; no program is run.
"""

import fcntl
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pbal.lang.mistakes import Mistake, did_you_mean

_VARIABLE = re.compile(r"(?P<dollars>\$++)(?:(?P<plain>\w+)|\{(?:(?P<kind>\w+):)?(?P<name>[\w.:@-]+)\}|(?P<open>\{)(?=\w))?", re.ASCII)
"""All the '$' that stand together, and what begins a variable behind them."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

# Characters; a few variables repeated must not fill the memory.
MAX_EXPANDED = 262144

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


@dataclass(slots=True)
class Expanded:
    """An expanded line, and the way back from its offsets to columns of the source line."""

    text: str
    pieces: list[_Piece] = field(default_factory=list)

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


def expand(text: str, environ: Mapping[str, str]) -> Expanded:
    """Replace every variable of a line. Raises: Mistake, with columns, for an unknown name or interface."""
    parts: list[str] = []
    pieces: list[_Piece] = []
    taken = length = 0
    for source_start, source_end, value in _values(text, environ):
        before = text[taken:source_start]
        start = length + len(before)
        length = start + len(value)
        taken = source_end
        parts += (before, value)
        pieces.append(_Piece(start, length, source_start, source_end))
        if length > MAX_EXPANDED:
            raise Mistake(f"the variables make the line longer than {MAX_EXPANDED} characters")
    return Expanded("".join(parts) + text[taken:], pieces)


def escaped(text: str) -> str:
    """A line as it has to be written for `expand` to give `text`."""
    return _VARIABLE.sub(lambda match: match[0] if match.lastgroup == "dollars" else match["dollars"] + match[0], text)


def _values(text: str, environ: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    """What is replaced: from where to where in the text, and by what."""
    for match in _VARIABLE.finditer(text):
        dollars = match["dollars"]
        if match.lastgroup == "dollars":
            continue
        kept = dollars[: len(dollars) // 2]
        if len(dollars) % 2 == 0:
            yield match.start(), match.end("dollars"), kept
            continue
        try:
            yield match.start(), match.end(), kept + _value(match, environ)
        except Mistake as mistake:
            mistake.column, mistake.end = match.end("dollars"), match.end() + 1
            raise


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    plain, kind, name = match["plain"], match["kind"], match["name"]
    if match["open"]:
        raise Mistake("expected a name and '}' after '${'")
    if kind is None:
        return _environment(plain or name, environ)
    if kind != "ip":
        raise Mistake(f"'{kind}' is not a type of variable, expected 'ip' as in ${{ip:eth0}}")
    return interface_address(name)


def _environment(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise Mistake(f"'{name}' is not in the environment", hint=did_you_mean(name, environ))
    value = environ[name]
    if _CONTROL.search(value):
        raise Mistake(f"'{name}' in the environment holds a line end or another control character")
    return value


def interface_address(name: str) -> str:
    """The first IPv4 address of an interface. Raises: Mistake if there is none. Source: netdevice(7)."""
    octets = name.encode()
    if len(octets) <= _INTERFACE_NAME_OCTETS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack(f"{_IFREQ_OCTETS}s", octets))
                return socket.inet_ntoa(answer[20:24])
            except OSError:
                known = [interface for _, interface in socket.if_nameindex()]
                hint = did_you_mean(name, set(known) - {name})
                raise Mistake(f"the interface '{name}' has no IPv4 address", hint=hint) from None
    raise Mistake(f"'{name}' is too long for the name of an interface")
