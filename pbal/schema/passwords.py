"""A file of passwords: a line a user, `user:scrypt$N$R$P$SALT$HASH`, as `pbal password` writes it.

Salt and hash are base64. N, R and P are what scrypt costs (RFC 7914 section 2): 128 * N * R octets of memory, and time that grows with all
three. They stand in the line, so that a stronger choice later does not lock out who has a line of today. What a line may ask for is
bounded: a file that somebody else wrote is not to fill the memory of the process.

Empty lines, and lines that begin with `#`, are no users.
"""

import binascii
import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pbal.schema import types

COST: Final = (16384, 8, 5)
"""N, R, P of new lines: 16 MB, and about a fifth of a second. OWASP, Password Storage Cheat Sheet, lists this choice for scrypt."""
MOST_MEMORY: Final = 256 << 20
"""Octets. More than any sensible choice takes."""
LONGEST: Final = 1024
"""Octets of a password."""
MOST_OCTETS: Final = 1 << 20
"""Of a file."""

_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,8}", re.ASCII)
_SALT_OCTETS = 16
_HASH_OCTETS = 32


@dataclass(frozen=True, slots=True)
class Hashed:
    """What is known of one user's password."""

    n: int
    r: int
    p: int
    salt: bytes
    hash: bytes

    def matches(self, password: bytes) -> bool:
        """Whether it is this password. Takes as long as scrypt is meant to; the comparison takes the same time for every guess."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p, len(self.hash)), self.hash)


NOBODY: Final = Hashed(*COST, b"\0" * _SALT_OCTETS, b"\0" * _HASH_OCTETS)
"""What a guess for a user that does not exist is compared with, so that the time does not tell."""


def _scrypt(password: bytes, salt: bytes, n: int, r: int, p: int, octets: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=2 * MOST_MEMORY, dklen=octets)


def line_for(user: str, password: str, cost: tuple[int, int, int] = COST) -> str:
    """The line of a user. Raises: ValueError for a name or a password that cannot be used."""
    octets = password.encode("utf-8", "surrogateescape")
    if not _USER.fullmatch(user):
        raise ValueError(f"expected a user of letters, digits and . _ @ - (64 at most), found {user!r}")
    if not octets.strip() or len(octets) > LONGEST:
        raise ValueError(f"a password has 1 to {LONGEST} bytes that are not all spaces")
    salt = os.urandom(_SALT_OCTETS)
    n, r, p = cost
    made = _scrypt(octets, salt, n, r, p, _HASH_OCTETS)
    return f"{user}:scrypt${n}${r}${p}${b64encode(salt).decode()}${b64encode(made).decode()}"


def read(path: Path) -> Mapping[str, Hashed]:
    """The users of a file. Raises: ValueError with the line at fault; OSError."""
    with open(path, "rb") as file:
        text = file.read(MOST_OCTETS + 1)
    if len(text) > MOST_OCTETS:
        raise ValueError(f"{path}: longer than {MOST_OCTETS} bytes")
    users: dict[str, Hashed] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, rest = line.strip().partition(":")
        hashed = _parsed(rest) if _USER.fullmatch(user) else None
        if hashed is None:  # what stands there is not shown: it may be a password
            raise ValueError(f"{path}, line {number}: expected user:scrypt$..., as 'pbal password USER' prints it")
        if user in users:
            raise ValueError(f"{path}, line {number}: '{user}' has a line already")
        users[user] = hashed
    if not users:
        raise ValueError(f"{path}: no user in it: 'pbal password USER' prints a line for one")
    return users


def _parsed(text: str) -> Hashed | None:
    parts = text.split("$")
    if len(parts) != 6 or parts[0] != "scrypt" or not all(_NUMBER.fullmatch(part) for part in parts[1:4]):
        return None
    n, r, p = map(int, parts[1:4])
    if n < 2 or n & (n - 1) or not r or not p or 128 * n * r > MOST_MEMORY or p > 64:
        return None
    try:
        salt, made = (b64decode(part, validate=True) for part in parts[4:])
    except (binascii.Error, ValueError):
        return None
    return Hashed(n, r, p, salt, made) if len(salt) >= 8 and 16 <= len(made) <= 64 else None


def _reader(text: str) -> Path:
    path: Path = types.FILE.parse(text)
    try:
        read(path)
    except OSError as error:
        raise ValueError(f"cannot read {text}: {error.strerror}") from None
    return path


PASSWORDS: Final[types.Type[Path]] = types.Type("password file", _reader, placed=types.FILE.placed)
