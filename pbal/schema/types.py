"""Types of values: how a tunable's text becomes a value, and back.

A `Type` is one frozen object with four things: its name (shown in help and in the manual), `parse` from the
text an operator typed, `render` back to text, and `complete` for the console. `render` always parses back
to an equal value; that is what lets `dumpconfig` print a configuration that boots.

`parse` raises ValueError, and the message is what the operator reads: what was expected, with an example,
and what was found. Numbers are plain decimal digits only: Python's own `int` would also take '1_0', '+5'
and digits of other scripts, none of which is meant by anybody who types them into a configuration.

A new type is a function from text to value, perhaps one back, and one line at the end of this file.
"""

import grp
import ipaddress
import os
import pwd
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from pbal.observe.access import NAMED, check_form
from pbal.observe.writer import why_not_writable
from pbal.schema.kinds import BadValue
from pbal.schema.regexes import may_run_away
from pbal.schema.said import Said

T = TypeVar("T")

FAULTS = (Exception, SystemExit)
"""What a function of a plugin's own type may raise."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Type(Generic[T]):
    """One kind of value. `reader` raises ValueError with a message for the operator; `writer` inverts it."""

    name: str
    reader: Callable[[str], T]
    writer: Callable[[T], str] = str
    choices: tuple[str, ...] = ()
    placed: Callable[[str, Path], str] = lambda text, folder: text
    """What `place` does to a text."""
    odd: Callable[[str], str] = lambda text: ""
    """What is legal and most likely not what was meant in a text that `parse` takes; '' if nothing is."""
    reads: Callable[[T], tuple[Path, ...]] = lambda value: tuple(each for each in _each(value) if isinstance(each, Path))
    """The files and folders of a value that are read, now and while pbal runs."""

    def parse(self, text: str) -> T:
        """The value of `text`. Raises: ValueError saying what was expected and what was found, or how it was written."""
        try:
            return self.reader(text)
        except ValueError as error:
            if isinstance(text, Said):
                raise _unseen(self.name, text, error) from None
            raise
        except FAULTS as error:  # of a plugin's own type
            raise ValueError(f"the type '{self.name}' fails at it: {_told(error)}") from error

    def proven(self, text: str) -> T:
        """The same for a type of a plugin: it has to write its value, too, as something that it reads. Raises: ValueError."""
        value = self.parse(text)
        if self.foreign:
            written: object = self.render(value)
            if not isinstance(written, str) or "\n" in written or "\r" in written:
                raise ValueError(f"the type '{self.name}' writes its value as a {type(written).__name__} that is no text of one line")
            self.parse(written)
        return value

    @property
    def foreign(self) -> bool:
        """Whether it is a plugin's own."""
        modules = {getattr(function, "__module__", "") or "" for function in (self.reader, self.writer)}
        return not all(module == "builtins" or module.startswith("pbal.") for module in modules)

    def place(self, text: str, folder: Path) -> str:
        """A text with its relative paths made absolute: they begin at `folder`."""
        placed = self.placed(text, folder)
        if not isinstance(text, Said) or placed == text:
            return text if placed == text else placed
        before = placed.removesuffix(text)
        if text.written.startswith('"') or before == placed or re.search(r"[\s#$\"\\]", before):
            return Said(placed, text.written)
        return Said(placed, before + text.written)

    def render(self, value: T) -> str:
        """Text that parses back to `value`. Raises: ValueError where a plugin's own type fails at it."""
        try:
            return self.writer(value)
        except FAULTS as error:
            raise ValueError(f"the type '{self.name}' cannot write its value: {_told(error)}") from error

    def remark(self, text: str) -> str:
        """What is odd about a text that `parse` takes, '' if nothing is."""
        try:
            said: object = self.odd(text)
        except FAULTS as error:
            return f"the type '{self.name}' fails at looking at it: {_told(error)}"
        return said if isinstance(said, str) else ""

    def complete(self) -> tuple[str, ...]:
        """Values worth offering at the console; empty where there is no short list."""
        return self.choices


def _told(error: BaseException) -> str:
    """An exception in words, whatever it is."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except FAULTS:
        return type(error).__name__


def _each(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


UNIX = "unix:"
"""What stands before the path of a Unix socket."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host and a port. `host` is a name, an IP literal without brackets, or '' for all addresses.

    Or a Unix socket: `host` is its absolute path, which no host's name looks like, and `port` is 0.
    """

    host: str
    port: int

    @property
    def path(self) -> str:
        """Of a Unix socket its path, else ''."""
        return self.host if self.host.startswith("/") else ""

    @property
    def is_name(self) -> bool:
        """Whether it has to be looked up."""
        return not (self.path or not self.host or ":" in self.host or _DOTTED.fullmatch(self.host))

    @property
    def authority(self) -> str:
        """What a Host field says of it; a Unix socket has no name in HTTP, and programs behind one take this."""
        return "localhost" if self.path else str(self)

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        if not self.host:
            return str(self.port)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _refuse(expected: str, found: str, span: tuple[int, int] | None = None, instead: tuple[str, ...] = ()) -> NoReturn:
    raise BadValue(f"expected {expected}, found {found!r}", expected=expected, span=span, instead=instead)


def _unseen(name: str, text: Said, error: ValueError) -> BadValue:
    """A refusal that does not tell the value."""
    expected = error.expected if isinstance(error, BadValue) else ""
    return BadValue(f"expected {expected or f'another {name}'}, found what {text.written} is", expected=expected)


# --- numbers -----------------------------------------------------------------------------------------------

_TRUE = frozenset({"1", "true", "on", "yes", "enable", "enabled"})
_FALSE = frozenset({"0", "false", "off", "no", "disable", "disabled"})

# 15 digits: every such number is exact as a float, and far past any size or count that means something.
_INT = re.compile(r"[0-9]{1,15}", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
# A unit may be said in full, and after a space: 10MB, 30 seconds. k is 1024 whatever follows it, as in Perlbal.
_SIZE = re.compile(r"([0-9]{1,15}) ?(?:([kmg])(?:i?b)?|b|bytes?)?", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(?:(ms|msecs?|milliseconds?)|(s|secs?|seconds?)|(m|mins?|minutes?)|(h|hours?)|(d|days?))?",
    re.ASCII | re.IGNORECASE,
)

# 30 years of 365 days, in seconds. Below it a float holds every microsecond; finer than that is rounded.
_LONGEST_DURATION = 30 * 365 * 86400

_SIZE_UNITS = {"g": 1 << 30, "m": 1 << 20, "k": 1 << 10, "b": 1}
_DURATION_UNITS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_SECONDS = {2: Decimal("0.001"), 3: Decimal(1), 4: Decimal(60), 5: Decimal(3600), 6: Decimal(86400), None: Decimal(1)}
"""By group of _DURATION."""


def _parse_bool(text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE else _refuse("on or off", text)


def _render_bool(value: bool) -> str:
    return "on" if value else "off"


def _parse_int(text: str) -> int:
    return int(text) if _INT.fullmatch(text) else _refuse("a whole number such as 64", text)


def _parse_mode(text: str) -> int:
    return int(text, 8) if _MODE.fullmatch(text) else _refuse("permissions such as 0660", text)


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        _refuse("a size such as 256k or 2m", text)
    return int(match[1]) * _SIZE_UNITS[(match[2] or "b").lower()]


def _render_size(value: int) -> str:
    for unit in "gmk":
        if value and value % _SIZE_UNITS[unit] == 0:
            return f"{value // _SIZE_UNITS[unit]}{unit}"
    return str(value)


def _parse_duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if not match:
        _refuse("a time such as 30s, 500ms or 5m", text)
    seconds = Decimal(match[1]) * _SECONDS[match.lastindex if match.lastindex != 1 else None]
    if seconds > _LONGEST_DURATION:
        _refuse("a time of at most 30 years", text)
    return float(round(seconds, 6))


def _render_duration(value: float) -> str:
    exact = Decimal(repr(value))
    for unit, seconds in _DURATION_UNITS.items():
        if exact and exact % seconds == 0:
            return f"{int(exact / seconds)}{unit}"
    return f"{exact:f}s" if exact else "0s"


# --- words and text ----------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_SEPARATOR = re.compile(r"[,\s]+", re.ASCII)
_FAULTY = re.compile(r"\\.|[*+?]+|\{[0-9,]*\}?|\(\?P?[<=!:]?\w*|\w-\w", re.DOTALL)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in _SEPARATOR.split(text) if word)


def _parse_tokens(text: str) -> tuple[bytes, ...]:
    tokens = tuple(word.encode() for word in words(text))
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            _refuse("tokens such as GET or X-Name", token.decode())
    return tokens


def _render_tokens(value: tuple[bytes, ...]) -> str:
    return " ".join(token.decode("ascii") for token in value)


def _parse_regex(text: str) -> re.Pattern[bytes]:
    try:
        return re.compile(text.encode())
    except re.error as error:
        expected = "a regular expression"
        if error.pos is None:
            raise BadValue(f"expected {expected}, but {error.msg} in {text!r}", expected=expected) from error
        at = len(text.encode()[: error.pos].decode(errors="ignore"))
        at -= text[at - 1 : at] == "{"
        message = f"expected {expected}, but {error.msg} at character {at + 1} of {text!r}"
        raise BadValue(message, expected=expected, span=(at, max(at + 1, _extent_of_fault(text, at)))) from error
    except (RecursionError, OverflowError, ValueError) as error:
        raise BadValue(f"expected a regular expression, but {error} in {text!r}", expected="a regular expression") from error


def _extent_of_fault(text: str, start: int) -> int:
    """Where what is wrong from `start` on ends: an escape, a repeat or a group's beginning whole, else one character."""
    match = _FAULTY.match(text, start)
    return min(len(text), match.end() if match else start + 1)


def _odd_regex(text: str) -> str:
    return (
        "it repeats what is repeated itself: the search in a text that nearly matches is given up after 50 ms" if may_run_away(text) else ""
    )


def _render_regex(value: re.Pattern[bytes]) -> str:
    return value.pattern.decode()


# --- paths -------------------------------------------------------------------------------------------------


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        _refuse("a path", text)
    return Path(text)


def _place_path(text: str, folder: Path) -> str:
    return str(folder / text) if text else text


def _words_of_paths(text: str) -> list[str]:
    """Divide at spaces and commas, unless a backslash stands before them: folders may have them in their names."""
    return [re.sub(r"\\([\s,\\])", r"\1", word) for word in re.findall(r"(?:\\[\s,\\]|[^\s,])+", text)]


def _joined(paths: Iterable[str | Path]) -> str:
    return " ".join(re.sub(r"([\s,\\])", r"\\\1", str(path)) for path in paths)


def _parse_paths(text: str) -> tuple[Path, ...]:
    paths = tuple(_parse_path(word) for word in _words_of_paths(text))
    return paths if paths else _refuse("one or more paths", text)


def _place_paths(text: str, folder: Path) -> str:
    return _joined(_place_path(word, folder) for word in _words_of_paths(text))


def _render_paths(value: tuple[Path, ...]) -> str:
    return _joined(value)


def _parse_directory(text: str) -> Path:
    path = _parse_path(text)
    return path if os.path.isdir(path) else _refuse("an existing directory", text)


def _parse_spool(text: str) -> Path:
    path = _parse_directory(text)
    return path if os.access(path, os.W_OK | os.X_OK) else _refuse("a directory that pbal can write to", text)


def _parse_file(text: str) -> Path:
    path = _parse_path(text)
    return path if os.path.isfile(path) else _refuse("an existing file", text)


def _parse_log(text: str) -> str:
    if text.lower() in _NO_FILES:
        return text.lower()
    why = why_not_writable(str(_parse_path(text)))
    return _refuse(f"off, stdout, syslog, or a file that can be written ({why})", text) if why else text


def _place_log(text: str, folder: Path) -> str:
    return text if text.lower() in _NO_FILES else _place_path(text, folder)


_NO_FILES = ("off", "stdout", "syslog")


def _parse_user(text: str) -> str:
    try:
        return pwd.getpwnam(text).pw_name
    except (KeyError, ValueError):
        return _refuse("the name of a user of this system", text)


def _parse_group(text: str) -> str:
    try:
        return grp.getgrnam(text).gr_name
    except (KeyError, ValueError):
        return _refuse("the name of a group of this system", text)


def _parse_log_form(text: str) -> str:
    word = text.lower()
    form = word if word == "json" or word in NAMED else text
    check_form(form)
    return form


# --- addresses ---------------------------------------------------------------------------------------------

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_HOST_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:]*))?", re.ASCII)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)
_DOTTED = re.compile(r"[0-9.]+", re.ASCII)

LONGEST_SOCKET_PATH = 107
"""Octets of the path of a Unix socket (unix(7))."""

# What a node without a port means (Perlbal manual, Pools).
DEFAULT_PORT = 80


def _parse_port(text: str, least: int) -> int:
    if not _PORT.fullmatch(text) or not least <= int(text) <= 65535:
        _refuse(f"a port from {least} to 65535", text)
    return int(text)


def _parse_ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        _refuse("an IPv6 address such as ::1 between [ and ]", text)


def _parse_ipv4(text: str) -> str:
    try:
        socket.inet_pton(socket.AF_INET, text)  # takes just the one form; a tenth of the time of ipaddress
    except (OSError, ValueError):
        _refuse("an IPv4 address such as 10.0.0.1", text)
    return text


def _parse_host(text: str) -> str:
    """A host name, in lower case, or an IPv4 literal. Source: RFC 1123 §2.1, and '_', which is in use."""
    if _DOTTED.fullmatch(text):
        return _parse_ipv4(text)
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        _refuse("a host name or an IP address", text)
    return text.lower()


def _parse_unix(text: str) -> Endpoint:
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or len(os.fsencode(path)) > LONGEST_SOCKET_PATH or "\0" in path:
        _refuse(f"unix: and the path of a socket, of at most {LONGEST_SOCKET_PATH} bytes, such as unix:/run/pbal.sock", text)
    return Endpoint(path, 0)


def _place_unix(text: str, folder: Path) -> str:
    """The path of a socket begins at the folder of the file that said it."""
    path = text.removeprefix(UNIX)
    return f"{UNIX}{(folder / path).absolute()}" if text.startswith(UNIX) and path else text


def _parse_endpoint(text: str) -> Endpoint:
    if text.startswith(UNIX):
        return _parse_unix(text)
    match = _HOST_PORT.fullmatch(text)
    if not match or not (match[1] or match[2]):
        _refuse("a node such as 10.0.0.1:8080, app.local:80, [::1]:8080 or unix:/run/app.sock", text)
    host = _parse_ipv6(match[1]) if match[1] else _parse_host(match[2])
    return Endpoint(host, DEFAULT_PORT if match[3] is None else _parse_port(match[3], least=1))


def _parse_listen(text: str) -> Endpoint:
    if text.isdecimal():
        return Endpoint("", _parse_port(text, least=0))
    if text.startswith(UNIX):
        return _parse_unix(text)
    match = _HOST_PORT.fullmatch(text)
    if not match or not (match[1] or match[2]) or match[3] is None:
        _refuse("an address to listen on such as 8080, 127.0.0.1:8080, [::1]:8080, localhost:8080 or unix:/run/pbal.sock", text)
    host = _parse_ipv6(match[1]) if match[1] else _parse_host(match[2])
    return Endpoint(host, _parse_port(match[3], least=0))


def _parse_receivers(text: str) -> tuple[Endpoint, ...]:
    found = []
    for word in words(text):
        match = _HOST_PORT.fullmatch(word)
        if not match or match[3] is None or not (match[1] or (match[2] and _DOTTED.fullmatch(match[2]))):
            _refuse("addresses such as 10.0.0.1:7000 or [::1]:7000", word)
        found.append(Endpoint(_parse_ipv6(match[1]) if match[1] else _parse_ipv4(match[2]), _parse_port(match[3], least=1)))
    return tuple(found)


_NETWORK = re.compile(r"([0-9.]+)(?:/([0-9]{1,2})|:([0-9.]+)|-([0-9.]+)|#([0-9.]+))", re.ASCII)


def _parse_network(text: str) -> Network:
    """One network. Source: Net::Netmask, which Perlbal reads them with, where a text of it means one thing only."""
    try:
        return plain_network(ipaddress.ip_network(_standard(text), strict=False))
    except ValueError:
        _refuse("a network such as 10.0.0.0/8 or ::1", text)


def plain_network(network: Network) -> Network:
    """The network of IPv4 addresses that one of IPv6 stands for, or itself (RFC 4291 section 2.5.5.2)."""
    if network.version == 6 and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        return ipaddress.ip_network((int(network.network_address.ipv4_mapped), network.prefixlen - 96))
    return network


def _standard(text: str) -> str:
    """A network in the standard's words. Raises: ValueError for a range that is no network, or a mask that is none."""
    if text.lower() in ("any", "default"):
        return "0.0.0.0/0"
    match = _NETWORK.fullmatch(text)
    if match is None:
        return text
    first, bits, mask, last, wild = match.groups()
    if bits is not None:  # 10/8, 192.168/16: the octets that are left out have to be outside of the mask
        given = first.count(".") + 1
        if given < 4 and int(bits) > 8 * given:
            raise ValueError(text)
        return f"{first}{'.0' * (4 - given)}/{bits}"
    if last is not None and not last.startswith("255."):
        networks = list(ipaddress.summarize_address_range(ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)))
        if len(networks) != 1:
            raise ValueError(text)
        return str(networks[0])
    return f"{first}/{_mask(mask or last or wild, wild is not None)}"


def _mask(text: str, inverted: bool) -> int:
    """The bits of a mask. Raises: ValueError for one with gaps."""
    value = int(ipaddress.IPv4Address(text))
    value = value if inverted else value ^ 0xFFFFFFFF
    if value & (value + 1):
        raise ValueError(text)
    return 32 - value.bit_length()


def _parse_networks(text: str) -> tuple[Network, ...]:
    return tuple(_parse_network(word) for word in words(text))


def _odd_networks(text: str) -> str:
    """Host bits: `10.1.2.3/8` may be meant as one address, or as the network it is in."""
    for word in words(text):
        network = _parse_network(word)
        if ipaddress.ip_interface(_standard(word)).ip != network.network_address:
            return f"{word} has bits set right of the mask, {network} is used"
    return ""


def _render_networks(value: tuple[Network, ...]) -> str:
    return " ".join(str(network) for network in value)


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|\*|null")
_OWN_PORT = re.compile(r"http://.*:80|https://.*:443")


def _parse_origins(text: str) -> tuple[str, ...]:
    """Origins as browsers say them: without a path, and without the port that their scheme has anyway."""
    found = () if text.lower() == "off" else words(text)
    for origin in found:
        if _ORIGIN.fullmatch(origin) is None:
            _refuse("an origin such as https://www.example.com, in lower case and without a path, *, or off", origin)
        if _OWN_PORT.fullmatch(origin):
            _refuse("an origin without the port that its scheme has anyway, as browsers say it", origin)
    return found


# --- the types ---------------------------------------------------------------------------------------------


def either(names: Sequence[str]) -> str:
    """'a', 'a or b', 'a, b or c'."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)


def enum(*choices: str) -> Type[str]:
    """One of a few words, any case typed; the value is the word as declared. Where `on` and `off` are among them, so is `yes`."""

    def reader(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        if {"on", "off"} <= set(choices) and text.lower() in _TRUE | _FALSE:
            return "on" if text.lower() in _TRUE else "off"
        _refuse(either(choices), text)

    return Type("|".join(choices), reader, choices=choices)


def name_of(noun: str) -> Type[str]:
    """The name of a pool, a service ...: only its shape is checked here, the World knows which exist."""

    def reader(text: str) -> str:
        return text if _NAME.fullmatch(text) else _refuse(f"the name of a {noun}", text)

    return Type(noun, reader)


BOOL: Type[bool] = Type("bool", _parse_bool, _render_bool, ("on", "off"))
INT: Type[int] = Type("int", _parse_int)
MODE: Type[int] = Type("mode", _parse_mode, "{:04o}".format)
SIZE: Type[int] = Type("size", _parse_size, _render_size)  # octets
DURATION: Type[float] = Type("duration", _parse_duration, _render_duration)  # seconds
REGEX: Type[re.Pattern[bytes]] = Type("regex", _parse_regex, _render_regex, odd=_odd_regex)
PATH: Type[Path] = Type("path", _parse_path, placed=_place_path)
DIRECTORY: Type[Path] = Type("directory", _parse_directory, placed=_place_path)
SPOOL: Type[Path] = Type("directory", _parse_spool, placed=_place_path)
FILE: Type[Path] = Type("file", _parse_file, placed=_place_path)
LOG: Type[str] = Type("file|stdout|syslog|off", _parse_log, choices=_NO_FILES, placed=_place_log)
LOG_FORM: Type[str] = Type("format", _parse_log_form, choices=("common", "combined", "json"))
PATHS: Type[tuple[Path, ...]] = Type("paths", _parse_paths, _render_paths, placed=_place_paths)
USER: Type[str] = Type("user", _parse_user)
GROUP: Type[str] = Type("group", _parse_group)
LISTEN: Type[Endpoint] = Type("listen", _parse_listen, placed=_place_unix)
ENDPOINT: Type[Endpoint] = Type("node", _parse_endpoint, placed=_place_unix)
RECEIVERS: Type[tuple[Endpoint, ...]] = Type("receivers", _parse_receivers, lambda value: " ".join(map(str, value)))
"""Where datagrams go: no names, which would have to be looked up."""
NETWORKS: Type[tuple[Network, ...]] = Type("networks", _parse_networks, _render_networks, odd=_odd_networks)
ORIGINS: Type[tuple[str, ...]] = Type("origins or off", _parse_origins, lambda value: " ".join(value) or "off", ("off",))
WORDS: Type[tuple[str, ...]] = Type("words", words, " ".join)
TOKENS: Type[tuple[bytes, ...]] = Type("tokens", _parse_tokens, _render_tokens)
TEXT: Type[str] = Type("text", str)
