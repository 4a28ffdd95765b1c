"""A Config: everything that statements have decided, as one value that never changes.

A file makes one, and so does a running pbal (model/snapshot.py). Two of them are equal if and only if they say the same, so a Config can be
printed as statements (render.py) and comes back equal when those are read. Nothing here knows a socket, a plugin or a type: values are the
canonical texts that the types of the tunables write, in which `1500ms` and `1.5s` are one. In place of a value that came from ${env:NAME}
or ${file:PATH} stands what was written (schema/said.py, Hidden); two of those are equal if the values are, too.

DEFAULT holds for services made after it. So each service has the defaults that were in force when it was made, of those of its tunables
that were not SET on it: a later DEFAULT, LOAD or RELOAD does not reach back.
"""

from dataclasses import dataclass, field
from enum import Enum

Pairs = tuple[tuple[str, str], ...]
"""Names and canonical texts, sorted by name."""


class Standing(Enum):
    """Whether a service answers. There is no way back to NEW."""

    NEW = "new"
    """Never enabled: it does not listen, and answers what a selector hands it."""
    ENABLED = "enabled"
    DISABLED = "disabled"
    """It does not listen, and answers no selector either."""


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plugin that is loaded. `folder` is where it was found; "" for those that come with pbal."""

    name: str
    folder: str


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node of a pool, and the options with which it was added."""

    name: str
    weight: int = 1
    """Its share of new requests, measured against those of the others; 0: only sessions that it holds already."""
    backup: bool = False
    """Whether it gets requests only while none of the others is usable."""
    most: int = 0
    """Connections that may be in use at once; 0: no limit."""

    @property
    def options(self) -> str:
        """As POOL ADD says them; '' where there are none."""
        weight = "" if self.weight == 1 else f" WEIGHT {self.weight}"
        return f"{weight}{' BACKUP' if self.backup else ''}{f' MAX {self.most}' if self.most else ''}".lstrip()


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool: its tunables that were set, and its nodes in their order."""

    name: str
    settings: Pairs
    nodes: tuple[NodeSpec, ...]
    """Those that statements named: none where they stand in a nodefile."""
    found: tuple[NodeSpec, ...] = field(default=(), compare=False)
    """Of a pool that runs: those of its nodefile, which stay if it is to have none."""


@dataclass(frozen=True, slots=True)
class HeaderSpec:
    """A HEADER rule. REMOVE has no value. `side` is REQUEST or RESPONSE."""

    name: str
    value: str | None
    verb: str = "INSERT"
    side: str = "REQUEST"
    when: str = ""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A ROUTE: requests for which `when` holds go to a pool."""

    pool: str
    when: str


@dataclass(frozen=True, slots=True)
class RewriteSpec:
    """A REWRITE of the path that nodes see."""

    pattern: str
    to: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """A CACHE: what is said behind the service's name, and the conditions, "" for none."""

    words: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """A LIMIT: what is said behind the service's name, and the conditions, "" for none."""

    words: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """The statements of one plugin of a service (VHOST, VPATH), in the words of the plugin."""

    plugin: str
    statements: tuple[str, ...]
    ordered: bool
    """Whether it matters in which order they are said."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service: what was SET on it (role, chain and names of others included), the DEFAULTs it was made with, its rules."""

    name: str
    standing: Standing
    settings: Pairs
    defaults: Pairs
    headers: tuple[HeaderSpec, ...]
    rules: tuple[RuleSpec, ...]
    """Of its plugins that have any, in the order of the chain."""
    routes: tuple[RouteSpec, ...] = ()
    rewrites: tuple[RewriteSpec, ...] = ()
    caching: tuple[CacheSpec, ...] = ()
    limits: tuple[LimitSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that is configured. Pools and services are in the order in which they were made."""

    server: Pairs
    plugins: tuple[PluginSpec, ...]
    defaults: Pairs
    pools: tuple[PoolSpec, ...]
    services: tuple[ServiceSpec, ...]
    media: Pairs = ()
    """Endings of file names and the media types that they were given; "" for one that was removed."""
