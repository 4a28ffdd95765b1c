"""Who knows a password: looked at off the loop, with a pause for who guesses. Consoles and the plugin basic_auth ask it.

A check of a password is meant to be slow. So it runs in a thread, and one at a time: a guess takes a fifth of a second of one core from
nobody but other guesses. A few may wait for their turn, more are told to come again.

    pause      after a failure its address is not listened to: 1 s, 2, 4 ... a minute. What is said in a pause is not even looked at, so
               it costs nothing and tells nothing. The pause is looked at again when a check has its turn: a hundred guesses sent at once
               are one guess. A right password ends it.
    address    an IPv4 address, the first 64 bits of an IPv6 one (which one host has whole), the user of a Unix socket. The table of them
               is bounded; the oldest is forgotten, and who can come from thousands of addresses still waits for the one turn.
    known      a right password is known again without the slow check, as long as its line in the file is the same: who scrapes /metrics
               says it every few seconds. What is kept of it is a keyed hash, and the key is the process's.

The file is read again when it was written. One that cannot be read leaves in force what was read before, and says so.
"""

import asyncio
import binascii
import hashlib
import hmac
import ipaddress
import os
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from pbal.schema.passwords import LONGEST, NOBODY, Hashed, read

if TYPE_CHECKING:
    from pbal.model.service import Service

LONGEST_PAUSE: Final = 60.0
FORGOTTEN_AFTER: Final = 600.0
"""Seconds without a failure after which an address begins anew."""
MOST_ADDRESSES: Final = 1024


Stated = tuple[Path, int, int, int]
"""Path, time of the last change (nanoseconds), inode and size of a file."""

Carried = tuple[OrderedDict[str, tuple[int, float]], dict[bytes, Hashed], bytes, Mapping[str, Hashed], Stated | None]
"""Pauses, passwords that are known, their key, users, and the file these are from."""


class Denied(Exception):
    """Not let in. `wait`: seconds after which it is worth to try again; 0 where nothing was tried that could be right."""

    def __init__(self, reason: str, wait: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class Passwords:
    """Those of one service, from the file that a tunable of it names."""

    what: ClassVar[str] = "service"
    """What it guards, for the log."""
    tunable: ClassVar[str] = "password_file"
    busy: ClassVar[str] = ""
    """The counter of checks that found no room to wait."""
    failures: ClassVar[str] = ""
    """The counter of wrong passwords."""
    most_waiting: ClassVar[int] = 16
    most_known: ClassVar[int] = 64

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._world = service.world
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._pauses: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By address: failures in a row, and when the last one was (clock time)."""
        self._known: dict[bytes, Hashed] = {}
        self._key = os.urandom(32)
        self._users: Mapping[str, Hashed] = {}
        self._read: Stated | None = None
        """Which file the users are from, as it was then."""

    def carry(self) -> Carried:
        """What another generation of its class goes on with: the same tables, so that a check which is under way tells both."""
        return self._pauses, self._known, self._key, self._users, self._read

    def adopt(self, carried: Carried) -> None:
        """Go on with what another one knew."""
        self._pauses, self._known, self._key, self._users, self._read = carried

    def knows(self, user: str, password: bytes) -> bool:
        """Whether it was found right before, and its line in the file was the same when that was read last. It takes no time."""
        hashed = self._users.get(user)
        return hashed is not None and self._known.get(self._mark(user, password)) == hashed

    def _mark(self, user: str, password: bytes) -> bytes:
        return hmac.digest(self._key, user.encode("utf-8", "surrogateescape") + b"\0" + password, hashlib.sha256)

    async def check(self, address: str, user: str, password: str) -> None:
        """Raises: Denied unless it is the password of `user`. `address`: who says it, as `address_of` made it."""
        octets = password.encode("utf-8", "surrogateescape")
        self._listen_to(address)
        if self._waiting >= self.most_waiting:
            self._world.counters.counts[self.busy] += 1
            raise Denied("too many passwords are being checked: try again", 1)
        self._waiting += 1
        try:
            async with self._turn:
                self._listen_to(address)
                good = len(octets) <= LONGEST and await self._is_right(user, octets)
        finally:
            self._waiting -= 1
        if not good:
            self._failed(address, user)
            raise Denied("no such user, or not the password")
        self._pauses.pop(address, None)

    def pause(self, address: str) -> int:
        """The seconds for which an address is not listened to; 0: it is."""
        failures, last = self._pauses.get(address, (0, 0.0))
        left = last + _pause(failures) - self._world.clock.now()
        return max(0, ceil(left)) if failures else 0

    def _listen_to(self, address: str) -> None:
        """Raises: Denied in a pause."""
        left = self.pause(address)
        if left:
            raise Denied(f"a wrong password came from here: wait {left} s", left)

    async def look(self) -> None:
        """Read the file again, if it was written."""
        why = await asyncio.get_running_loop().run_in_executor(None, self._read_again)
        if why:
            self._world.log_limited(
                f"{self.tunable} {self._service.name}",
                "%(tunable)s of %(service)s: %(reason)s; the users read before stay",
                {"event": "password_file_refused", "tunable": self.tunable, "service": self._service.name, "reason": why},
            )

    async def _is_right(self, user: str, password: bytes) -> bool:
        await self.look()
        loop = asyncio.get_running_loop()
        hashed = self._users.get(user)
        if self.knows(user, password):
            return True
        if not await loop.run_in_executor(None, (hashed or NOBODY).matches, password) or hashed is None:
            return False
        if len(self._known) >= self.most_known:
            del self._known[next(iter(self._known))]
        self._known[self._mark(user, password)] = hashed
        return True

    def _read_again(self) -> str:
        """In a thread: read the file, if it is not what was read last. Why it cannot be used, or ''."""
        path: Path | None = self._service[self.tunable]
        if path is None:  # asked for no more, while this waited for its turn
            self._users, self._read = {}, None
            return ""
        try:
            found = os.stat(path)
            wanted = path, found.st_mtime_ns, found.st_ino, found.st_size
            if wanted != self._read:
                self._users, self._read = read(path), wanted
        except (OSError, ValueError) as error:
            if self._read is not None and self._read[0] != path:
                self._users, self._read = {}, None
            return str(error)
        return ""

    def _failed(self, address: str, user: str) -> None:
        world = self._world
        now = world.clock.now()
        world.counters.counts[self.failures] += 1
        failures, last = self._pauses.pop(address, (0, 0.0))
        if now - last > FORGOTTEN_AFTER:
            failures = 0
        self._pauses[address] = (failures + 1, now)
        if len(self._pauses) > MOST_ADDRESSES:
            self._pauses.popitem(last=False)
        known = user if user in self._users else "nobody that is known"  # what was typed there may be the password
        world.log_limited(
            f"login {address}",
            "%(what)s %(service)s: a wrong password from %(client)s for %(user)s",
            {"event": "login_failed", "what": self.what, "service": self._service.name, "client": address, "user": known},
        )


def _pause(failures: int) -> float:
    return min(2.0 ** min(failures - 1, 10), LONGEST_PAUSE)


def credentials(field: bytes) -> tuple[str, str] | None:
    """User and password of an Authorization field (RFC 7617 section 2); None where there are none that can be read."""
    scheme, _, said = field.partition(b" ")
    try:
        user, colon, password = b64decode(said.strip(), validate=True).decode("utf-8", "surrogateescape").partition(":")
    except binascii.Error:
        return None
    return (user, password) if colon and scheme.lower() == b"basic" else None


def address_of(peer: str) -> str:
    """Who pauses after a failure: what of an address is one host's. `peer`: an IP address, or anything else."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
