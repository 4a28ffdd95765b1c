"""What the files hold that tunables name (Tunable.reads): read in a thread before a statement needs it, since a disk may be slow.

    SET, RELOAD, ENABLE    read ahead, then the statement is carried out: a plugin asks Service.reading() in check() and finds it here
    RELOAD CONFIG          the file's services are read ahead as it is read; both configurations have one object of this class
    start                  nobody waits for the loop: read when it is asked for

What was read is kept while a service has the value, so that a new generation of a plugin, or a statement about something else, reads
nothing again. What could not be read ahead is kept as the error, until the statement that it refuses is over.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pbal.model import faults
from pbal.model.errors import ConfigError
from pbal.schema.tunables import Tunable

if TYPE_CHECKING:
    from pbal.model.service import Service

Key = tuple[str, Any]
"""A tunable, and what it is: see _key()."""


class Readings:
    """Of a process."""

    def __init__(self) -> None:
        self._kept: dict[Key, Any] = {}

    def of(self, tunable: Tunable, value: Any) -> Any:
        """What a file holds. It reads the disk if nobody has read it ahead. Raises: ConfigError."""
        key = _key(tunable.name, value)
        found = self._kept[key] if key in self._kept else _read(tunable, value)
        if isinstance(found, ConfigError):
            raise found
        self._kept[key] = found
        return found

    async def ahead(self, tunables: Iterable[tuple[Tunable, Any]]) -> dict[Key, Any]:
        """Read files anew. Returns what was known before, for `back` if what follows is refused."""
        loop, before = asyncio.get_running_loop(), dict(self._kept)
        for key, pair in {_key(tunable.name, value): (tunable, value) for tunable, value in tunables}.items():
            self._kept[key] = await loop.run_in_executor(None, _read, *pair)
        return before

    async def again(self, service: "Service", names: Iterable[str]) -> None:
        """Read the files anew that tunables of a service name. Raises: ConfigError, and what was read before stays."""
        tunables = [(tunable, value) for tunable, value in named(service) if tunable.name in names]
        before = await self.ahead(tunables)
        try:
            for tunable, value in tunables:
                self.of(tunable, value)
        except ConfigError:
            self.back(before)
            raise

    def back(self, before: dict[Key, Any]) -> None:
        """What was read ahead is not to be used."""
        self._kept = before

    def missing(self, service: "Service") -> list[tuple[Tunable, Any]]:
        """What a service names and nobody has read."""
        return [(tunable, value) for tunable, value in named(service) if _key(tunable.name, value) not in self._kept]

    def keep(self, services: Iterable["Service"]) -> None:
        """Forget what none of these names, and what could not be read."""
        if self._kept:
            wanted = {_key(name, service.values.get(name)) for service in services for name in {name for name, _ in self._kept}}
            self._kept = {key: found for key, found in self._kept.items() if key in wanted and not isinstance(found, ConfigError)}


def _key(name: str, value: Any) -> Key:
    """What is read is known by. A type of a plugin may make values, such as lists, that no dict takes as a key."""
    try:
        hash(value)
    except TypeError:
        return name, repr(value)
    return name, value


def named(service: "Service") -> Iterator[tuple[Tunable, Any]]:
    """The tunables of a service that name files, and the files."""
    for tunable in service.world.settings.reading():
        value = service.values[tunable.name]
        if value is not None and tunable.fits(service.role):
            yield tunable, value


def _read(tunable: Tunable, value: Any) -> Any:
    """May run in a thread."""
    assert tunable.reads is not None
    try:
        return tunable.reads(value)
    except ConfigError as error:
        return error
    except faults.CAUGHT as error:  # a fault of the plugin whose tunable it is
        return ConfigError(f"what reads {tunable.name} fails: {faults.describe(error)}", about=tunable.name)
