"""Who may use a console: passwords looked at off the loop, and a pause for who guesses.

A check of a password is meant to be slow. So it runs in a thread, and one at a time: a guess takes a fifth of a second of one core from
nobody but other guesses. A few may wait for their turn, more are told to come again.

    pause      after a failure its address is not listened to: 1 s, 2, 4 ... a minute. What is said in a pause is not even looked at, so
               it costs nothing and tells nothing. The pause is looked at again when a check has its turn: a hundred guesses sent at once
               are one guess. A right password ends it.
    address    an IPv4 address, the first 64 bits of an IPv6 one (which one host has whole), the user of a Unix socket. The table of them
               is bounded; the oldest is forgotten, and who can come from thousands of addresses still waits for the one turn.
    known      a right password is known again without the slow check, as long as its line in the file is the same: who scrapes /metrics
               says it every few seconds. What is kept of it is a keyed hash, and the key is the process's.
    strangers  connections on which no right password was said yet. They are bounded, so that they take no descriptors from those whom pbal
               serves: the oldest one goes.

The file is read again when it was written. One that cannot be read leaves in force what was read before, and says so.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import os
from collections import OrderedDict
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Final

from pbal.model.service import Service
from pbal.schema.passwords import LONGEST, NOBODY, Hashed, read

LONGEST_PAUSE: Final = 60.0
FORGOTTEN_AFTER: Final = 600.0
"""Seconds without a failure after which an address begins anew."""
MOST_ADDRESSES: Final = 1024
MOST_WAITING: Final = 16
MOST_KNOWN: Final = 64
MOST_STRANGERS: Final = 256


class Denied(Exception):
    """Not let in. `wait`: seconds after which it is worth to try again; 0 where nothing was tried that could be right."""

    def __init__(self, reason: str, wait: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class Gate:
    """That of one management service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._pauses: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By address: failures in a row, and when the last one was (clock time)."""
        self._known: dict[bytes, Hashed] = {}
        self._key = os.urandom(32)
        self._strangers: dict[asyncio.Transport, None] = {}
        """The oldest first."""
        self._users: Mapping[str, Hashed] = {}
        self._read: tuple[Path, int, int, int] | None = None
        """Which file the users are from, as it was then."""

    @property
    def closed(self) -> bool:
        """Whether a password is asked for."""
        return self._service["password_file"] is not None

    def came(self, transport: asyncio.Transport) -> None:
        """A connection was made; nobody knows yet whose. `settled` is to follow."""
        self._strangers[transport] = None
        if len(self._strangers) > MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            self.settled(oldest)
            oldest.abort()
            world = self._service.world
            world.counters.counts["console_strangers_closed"] += 1
            world.log_limited(
                f"strangers {self._service.name}",
                "console %(service)s: more than %(most)d connections without a password: the oldest is closed",
                {"event": "console_crowded", "service": self._service.name, "most": MOST_STRANGERS},
            )

    def settled(self, transport: asyncio.Transport) -> None:
        """The right password was said on it, or it has ended."""
        self._strangers.pop(transport, None)

    async def check(self, address: str, user: str, password: str) -> None:
        """Raises: Denied unless it is the password of `user`. `address`: who says it, as `address_of` made it."""
        octets = password.encode("utf-8", "surrogateescape")
        self._listen_to(address)
        if self._waiting >= MOST_WAITING:
            self._service.world.counters.counts["console_logins_busy"] += 1
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

    def _listen_to(self, address: str) -> None:
        """Raises: Denied in a pause."""
        failures, last = self._pauses.get(address, (0, 0.0))
        left = last + _pause(failures) - self._service.world.clock.now()
        if failures and left > 0:
            raise Denied(f"a wrong password came from here: wait {ceil(left)} s", ceil(left))

    async def _is_right(self, user: str, password: bytes) -> bool:
        loop = asyncio.get_running_loop()
        why = await loop.run_in_executor(None, self._read_again)
        if why:
            self._service.world.log_limited(
                f"password_file {self._service.name}",
                "password_file of %(service)s: %(reason)s; the users read before stay",
                {"event": "password_file_refused", "service": self._service.name, "reason": why},
            )
        hashed = self._users.get(user)
        mark = hmac.digest(self._key, user.encode("utf-8", "surrogateescape") + b"\0" + password, hashlib.sha256)
        if hashed is not None and self._known.get(mark) == hashed:
            return True
        if not await loop.run_in_executor(None, (hashed or NOBODY).matches, password) or hashed is None:
            return False
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[mark] = hashed
        return True

    def _read_again(self) -> str:
        """In a thread: read the file, if it is not what was read last. Why it cannot be used, or ''."""
        path: Path | None = self._service["password_file"]
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
        world = self._service.world
        now = world.clock.now()
        world.counters.counts["console_login_failures"] += 1
        failures, last = self._pauses.pop(address, (0, 0.0))
        if now - last > FORGOTTEN_AFTER:
            failures = 0
        self._pauses[address] = (failures + 1, now)
        if len(self._pauses) > MOST_ADDRESSES:
            self._pauses.popitem(last=False)
        known = user if user in self._users else "nobody that is known"  # what was typed there may be the password
        world.log_limited(
            f"login {address}",
            "console %(service)s: a wrong password from %(client)s for %(user)s",
            {"event": "login_failed", "service": self._service.name, "client": address, "user": known},
        )


def _pause(failures: int) -> float:
    return min(2.0 ** min(failures - 1, 10), LONGEST_PAUSE)


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
