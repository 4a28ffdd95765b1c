"""Nodes of pools that stand in files: read off the loop, and again when a file was written.

    a file      one node a line, with the options of POOL ADD; # begins a comment; a node that stands there twice has the weight 2
    watched     a pool's file, what it was when it was last taken or refused, and why it was refused

Files are looked at once a second, in a thread. What differs from the last time is taken when it was the same at two looks: somebody may
be writing it at this moment. Then it is read whole, and its nodes become the pool's: those that stay keep their state and their counts,
those that are new come before the others go. A file that is gone, cannot be read, has a line that is no node, or is empty to the last
octet (a disk was full) changes nothing: its pool keeps the nodes it has, and the log, `SHOW POOL` and a counter tell. A file that is to
have no node says so with a comment.

A SET reads the file before it is carried out, so its nodes are there with its OK, and a file with a mistake is refused. At start all of
them are read before anything listens. Configurations hold the name of the file and not its nodes.

Source: Perlbal manual, Pools, nodefile. differs: host names, IPv6 and Unix sockets work; a line that is no node refuses the file, where
Perlbal passes over it.
"""

import asyncio
import logging
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from pbal.model.clock import Clock
from pbal.model.errors import ConfigError
from pbal.model.pool import Pool
from pbal.schema.balancing import HEAVIEST, MOST, WEIGHT
from pbal.schema.kinds import BadValue, Kind
from pbal.schema.types import DEFAULT_PORT, ENDPOINT, Endpoint

log = logging.getLogger("pbal.nodes")

MOST_OCTETS: Final = 1 << 20
"""Of a file: some forty thousand nodes."""

_PERLBAL: Final = re.compile(r"(?<![0-9.\w])([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::([0-9]+))?(?![\w.:])", re.ASCII)
"""What counts in a line of Perlbal's, wherever it stands: the first a.b.c.d or a.b.c.d:port."""

_OPTIONS: Final = re.compile(r"(\S+)(?:\s+WEIGHT\s+(\S+))?(?:\s+(BACKUP))?(?:\s+MAX\s+(\S+))?", re.IGNORECASE)
"""A node as POOL ADD takes it."""

Options = tuple[int, bool, int]
"""Weight, whether it is a backup, most connections in use (0: no limit)."""
Signature = tuple[int, int, int]
"""When a file was written (ns), its size in octets, its inode."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A file as it was read."""

    signature: Signature
    nodes: dict[Endpoint, Options]
    """In their order."""


@dataclass(slots=True)
class Watched:
    """The file of a pool."""

    path: Path
    signature: Signature | None = None
    """Of what was taken or refused last; None: there was no file."""
    pending: Signature | None = None
    """What the last look saw, if it was something else."""
    error: str = ""
    """Why the nodes in the file are not those of the pool; "" if they are."""
    since: float = 0.0
    """When its nodes were taken (clock time)."""


def signature_of(path: Path) -> Signature | None:
    """None where there is no file, or what is there is none. May take long."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):  # to open a pipe may take for ever
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> Listing:
    """The nodes in a file. May take long. Raises: ConfigError, with the line that is wrong."""
    signature = signature_of(path)
    if signature is None:
        raise ConfigError(f"there is no file {path}", about="nodefile", kind=Kind.SYSTEM)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_OCTETS + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}", about="nodefile", kind=Kind.SYSTEM) from None
    if len(data) > MOST_OCTETS:
        raise ConfigError(f"{path} is larger than {MOST_OCTETS >> 20} MB", about="nodefile")
    return Listing(signature, parse(path, data))


def parse(path: Path, data: bytes) -> dict[Endpoint, Options]:
    """The nodes that `data`, read from `path`, names. Raises: ConfigError."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected text in UTF-8", about="nodefile") from None
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; a comment line says that it is to have no nodes", about="nodefile")
    found: dict[Endpoint, Options] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if not said:
            continue
        try:
            node, weight, backup, most = _node(said, path.parent)
            weight += found.get(node, (0, False, 0))[0]
            if weight > HEAVIEST:  # what POOL ADD would refuse, and dumpconfig may come to say
                raise BadValue(f"the weights of {node} are {weight} together, {HEAVIEST} at most", expected="one node a line")
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}", about="nodefile", kind=Kind.BAD_VALUE) from None
        found[node] = weight, backup, most
    return found


def _node(said: str, folder: Path) -> tuple[Endpoint, int, bool, int]:
    """The node of a line with its options. Raises: ValueError."""
    match = _PERLBAL.search(said)
    options = _OPTIONS.fullmatch(said)
    if options is not None:
        try:
            node = ENDPOINT.parse(ENDPOINT.place(options[1], folder))
        except ValueError:
            if match is None:
                raise
        else:
            most = MOST.parse(options[4]) if options[4] else 0
            return node, WEIGHT.parse(options[2] or "1"), options[3] is not None, most
    elif match is None:
        raise BadValue(f"expected one node a line, found {said!r}", expected="one node a line")
    return ENDPOINT.parse(f"{match[1]}:{match[2] or DEFAULT_PORT}"), 1, False, 0


def path_of(pool: Pool) -> Path | None:
    """The file with the nodes of a pool; None where it has none."""
    return cast(Path | None, pool.values["nodefile"])


class NodeFiles:
    """The files of all pools of a process."""

    def __init__(self, clock: Clock, counts: dict[str, int], pools: Mapping[str, Pool]) -> None:
        self._clock = clock
        self._counts = counts
        self._pools = pools
        self._watched: dict[Pool, Watched] = {}
        self._ahead: dict[Path, Listing] = {}
        """What was read for statements that will be carried out in a moment."""
        self._looking = False

    def of(self, pool: Pool) -> Watched | None:
        """The file of a pool."""
        return self._watched.get(pool)

    def settle(self, pool: Pool) -> None:
        """Tunables of a pool have changed."""
        path = path_of(pool)
        if path is None:
            self._watched.pop(pool, None)  # its nodes stay
            return
        watched = self._watched.get(pool)
        if watched is None or watched.path != path:
            watched = self._watched[pool] = Watched(path)
        listing = self._ahead.get(path)  # other pools of the same change may have the same file
        if listing is not None:
            self._apply(pool, watched, listing)

    def start(self) -> None:
        """Read all of them. May take long: before anything is served. Raises: ConfigError."""
        for pool, watched in self._watched.items():
            self._apply(pool, watched, read(watched.path))

    async def read_ahead(self, path: Path) -> None:
        """Read a file for the SET of it that follows. Raises: ConfigError if that is to be refused."""
        self._ahead[path] = await asyncio.get_running_loop().run_in_executor(None, read, path)

    def forget(self) -> None:
        """The statement for which files were read is over, carried out or not."""
        self._ahead.clear()

    # -- looking again -----------------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether there is anything to look at, and nobody looks already: a file system may hang."""
        return bool(self._watched) and not self._looking

    async def look(self, alone: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Take what was written and stays as it is. `alone`: while it lasts, no statement changes the configuration."""
        self._looking = True
        loop = asyncio.get_running_loop()
        try:
            paths = list(dict.fromkeys(watched.path for watched in self._watched.values()))
            found = dict(zip(paths, await loop.run_in_executor(None, lambda: [signature_of(path) for path in paths]), strict=True))
            for pool, watched in list(self._watched.items()):
                if self._pools.get(pool.name.lower()) is not pool:  # it was dropped
                    self._watched.pop(pool, None)
                elif watched.path in found and self._has_settled(watched, found[watched.path]):
                    await self._take(pool, watched, alone)
        finally:
            self._looking = False

    def _has_settled(self, watched: Watched, signature: Signature | None) -> bool:
        """Whether a file is another than it was taken for, and the same as at the last look."""
        if signature == watched.signature and not (signature is None and not watched.error):
            watched.pending = signature
            return False
        settled = signature == watched.pending
        watched.pending = signature
        return settled

    async def _take(self, pool: Pool, watched: Watched, alone: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Read the file of a pool, and make its nodes the pool's."""
        pending = watched.pending
        try:
            listing = await asyncio.get_running_loop().run_in_executor(None, read, watched.path)
        except ConfigError as error:
            watched.signature = pending  # said once, not with each look
            watched.error = error.message
            self._counts["nodefile_errors"] += 1
            log.error(
                "pool %(pool)s keeps its nodes: %(reason)s", {"event": "nodefile_refused", "pool": pool.name, "reason": error.message}
            )
            return
        if listing.signature != pending:  # it was written again meanwhile
            watched.pending = listing.signature
            return
        async with alone():
            if self._watched.get(pool) is watched:
                came, went = self._apply(pool, watched, listing)
                log.info(
                    "pool %(pool)s: %(file)s was written; nodes that came: %(came)d, that went: %(went)d",
                    {"event": "nodefile_taken", "pool": pool.name, "file": str(watched.path), "came": came, "went": went},
                )

    def _apply(self, pool: Pool, watched: Watched, listing: Listing) -> tuple[int, int]:
        """The nodes of a file become those of its pool. How many came, and went."""
        now = self._clock.now()
        watched.signature = watched.pending = listing.signature
        watched.error = ""
        watched.since = now
        place = {endpoint: number for number, endpoint in enumerate(listing.nodes)}
        before = {node.endpoint: (node.weight, node.backup, node.most) for node in pool.nodes}
        gone = [node.endpoint for node in pool.nodes if node.endpoint not in place]
        with pool.all_at_once():
            for endpoint, options in listing.nodes.items():
                if before.get(endpoint) != options:
                    pool.add(endpoint, *options)
            for endpoint in gone:
                pool.remove(endpoint, now)
        pool.nodes.sort(key=lambda node: place[node.endpoint])
        return len(place.keys() - before.keys()), len(gone)
