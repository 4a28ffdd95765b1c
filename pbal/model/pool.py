"""Pools and nodes: who could answer, who should next.

A node that refused a connection is passed over for NODE_PENALTY seconds, unless every other one is penalised as well:
an answer from a node just restarted beats a 503. A removed node is marked, never reused by a later ADD of the same
address: connections that still drain know their own node and see `removed`.

Who may get a request is said here (see pick); which of those gets it, in balance.py.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from pbal.http1.events import RequestHead
from pbal.model.balance import CODES, HASH, Asking, Member, choose, key_octets, key_of, weights_of
from pbal.model.change import BeginChange
from pbal.model.errors import NotBuilt, UnknownName, bad_value
from pbal.model.sticky import Sticky
from pbal.observe.histogram import Histogram
from pbal.schema import perlbal
from pbal.schema.balancing import HashOf
from pbal.schema.kinds import Kind
from pbal.schema.pools import OF_POOLS, owner
from pbal.schema.roles import CORE
from pbal.schema.tunables import Tunable
from pbal.schema.types import Endpoint

NODE_PENALTY = 1.0
"""Seconds; Perlbal's."""
WINDOW = 500
"""Responses whose codes are remembered; Perlbal's."""
A_MOMENT = 5.0
"""Seconds after its last node went in which a pool is expected to get another: nodes are being exchanged."""


class Node(Member):
    """One address in a pool and what was seen of it."""

    __slots__ = (
        "authority", "connects", "cookie", "down_until", "endpoint", "error", "error_at", "errors", "failed_at", "failures",
        "last_attempt", "last_connect", "last_response", "last_success", "latency", "name", "pool", "removed", "requests",
        "responses", "since", "window",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, pool: "Pool") -> None:
        super().__init__(str(endpoint))
        self.endpoint = endpoint
        self.name = str(endpoint)
        self.authority = endpoint.authority
        """What Host says to it, where a client said nothing."""
        self.pool = pool
        self.cookie = b""
        """The value of the cookie that binds a client to it; b"" where the pool has none."""
        self.requests = 0
        self.connects = 0
        self.failures = 0
        self.down_until = 0.0
        self.failed_at = 0.0
        """When a connection to it could not be made, the last time (clock time)."""
        self.last_attempt = 0.0
        self.last_connect = 0.0
        self.last_response = 0.0
        self.last_success = 0.0
        """When the head of an answer came whose status is not 5xx (clock time)."""
        self.responses: dict[int, int] = {}
        self.latency = Histogram()
        """How long requests took, from being sent to the end of the answer, or of the attempt."""
        self.errors = 0
        """Requests that it gave no usable answer to."""
        self.error = ""
        """What went wrong the last time: no connection, no usable answer, or one that is 5xx."""
        self.error_at = 0.0
        """When (clock time)."""
        self.since = 0.0
        """Since when it is up or down (clock time); 0 if it was never tried."""
        self.window: deque[int] = deque(maxlen=WINDOW)
        """The status codes of its last responses."""
        self.removed = False

    @property
    def down(self) -> bool:
        """Whether the last attempt to connect failed."""
        return self.failed_at > self.last_connect

    @property
    def state(self) -> str:
        """untried, up, down; draining when it was removed and requests run on it."""
        if self.removed:
            return "draining"
        if not self.last_connect and not self.failed_at:
            return "untried"
        return "down" if self.down else "up"

    def reached(self, now: float) -> None:
        """A connection to it was made."""
        if self.down or not self.last_connect:
            self.since = now
        self.connects += 1
        self.last_connect = now
        self.down_until = 0.0

    def unreachable(self, now: float, why: str) -> None:
        """A connection to it could not be made."""
        if not self.down:
            self.since = now
        self.failures += 1
        self.failed_at = self.error_at = now
        self.down_until = now + NODE_PENALTY
        self.error = why

    def broke(self, now: float, why: str) -> None:
        """It gave no usable answer to a request."""
        self.errors += 1
        self.failed(now, why)

    def failed(self, now: float, why: str) -> None:
        """Something went wrong with it: what an operator should hear."""
        self.error, self.error_at = why, now

    def __repr__(self) -> str:
        return f"<Node {self.name} active={self.active}{' removed' if self.removed else ''}>"


_DEFAULTS: Final = {name: tunable.default_value() for name, tunable in OF_POOLS.items()}


class Pool:
    """A named set of nodes and the way one is chosen."""

    def __init__(self, name: str, changing: BeginChange) -> None:
        self.name = name
        self._changing = changing
        self.nodes: list[Node] = []
        self.named: list[Node] = []
        """Those of them that are known by name."""
        self.draining: list[Node] = []
        self.values: dict[str, object] = dict(_DEFAULTS)
        self.written: dict[str, str] = {}
        """Tunables that were set, in the words in which they were."""
        self._method = 0
        """balance_method, as balance.py has it."""
        self._plain = True
        """Whether no node has options."""
        self.starting = False
        """Whether a node may take less than its weight for a while (Member.share)."""
        self.retrying = 0
        """Requests in progress that were sent again: what retry_budget bounds."""
        self.sticky: Sticky | None = None
        self._bound: dict[bytes, Node] = {}
        """The node that a sticky cookie names."""
        self.emptied_at = -inf
        """When its last node was taken out (clock time): another may come in a moment."""
        self.added_listeners: list[Callable[[], None]] = []
        """Told when a node comes."""
        self.removed_listeners: list[Callable[[Node], None]] = []
        """Told of each removed node, so that idle connections to it are closed at once."""

    def add(self, endpoint: Endpoint, weight: int = 1, backup: bool = False, most: int = 0) -> None:
        """Add a node with the options of POOL ADD, or change those of one that is there."""
        node = self.find(endpoint)
        with self._changing() as change:
            if node is not None:
                change.undo(self._set_options, node, node.weight, node.backup, node.most)
                self._set_options(node, weight, backup, most)
                return
            change.undo(self._take_out, endpoint, -inf)
            node = Node(endpoint, self)
            self.nodes.append(node)
            if endpoint.is_name:
                self.named.append(node)
            self._set_options(node, weight, backup, most)
            for tell in list(self.added_listeners):
                tell()

    def _set_options(self, node: Node, weight: int, backup: bool, most: int) -> None:
        node.weight, node.backup, node.most = weight, backup, most
        self._reckon()

    def _reckon(self) -> None:
        """Nodes, their options or tunables have changed."""
        self._plain = all(node.weight == 1 and not node.backup and not node.most for node in self.nodes)
        self._method = CODES[str(self.values["balance_method"])]
        name, key = self.values["sticky"], self.values["sticky_key"]
        assert isinstance(name, bytes) and (key is None or isinstance(key, bytes))
        self.sticky = Sticky(name, key) if name else None
        for node in self.nodes:
            node.cookie = b"" if self.sticky is None else self.sticky.value(node.name)
        self._bound = {node.cookie: node for node in self.nodes if node.cookie}

    def remove(self, endpoint: Endpoint, now: float) -> None:
        """Take a node out at `now` (clock time); what runs on it finishes. Raises: UnknownName if it is no member."""
        self.member(endpoint)
        with self._changing() as change:
            change.then(self._take_out, endpoint, now)

    def _take_out(self, endpoint: Endpoint, now: float) -> None:
        node = self.member(endpoint)
        node.removed = True
        self.nodes.remove(node)
        if node in self.named:
            self.named.remove(node)
        self._reckon()
        if not self.nodes:
            self.emptied_at = now
        if node.active:
            self.draining.append(node)
        for tell in list(self.removed_listeners):
            tell(node)

    def released(self, node: Node) -> None:
        """A request on `node` ended; a drained node is forgotten."""
        node.active -= 1
        if node.removed and node.active <= 0 and node in self.draining:
            self.draining.remove(node)

    def find(self, endpoint: Endpoint) -> Node | None:
        """The node of that address, if it is in the pool."""
        for node in self.nodes:
            if node.endpoint == endpoint:
                return node
        return None

    @property
    def choosy(self) -> bool:
        """Whether it matters on which node a request that was given one ends: no other's connection will do that becomes free first."""
        return not self._plain or self.sticky is not None or self._method == HASH

    def pick(self, now: float, tried: tuple[Node, ...] = (), asking: Asking | None = None, method: int = -1) -> Node | None:
        """Choose a node that was not tried yet; None when none is left.

        `asking` is the request it is for: what hash and sticky cookies look at. `method` is one of balance.py's in place of the pool's own.
        """
        nodes = self.nodes
        if self._plain and len(nodes) == 1 and not tried:
            return nodes[0]
        if self._bound and asking is not None:
            held = self.holder(asking.request)
            if held is not None and held not in tried and held.down_until <= now and not held.full:
                return held
        candidates = self._candidates(now, tried)
        if not candidates:
            return None
        if method < 0:
            method = self._method
        key = self.hash_key(asking) if method == HASH and asking is not None else None
        weights = None if self._plain and not self.starting else weights_of(candidates, now)
        return candidates[choose(method, candidates, weights, key)]

    def _candidates(self, now: float, tried: tuple[Node, ...]) -> list[Node]:
        """Who may have a request. Backup nodes may while no other could: that the others are full is no reason."""
        candidates = [node for node in self.nodes if node not in tried] if tried else self.nodes
        if self._plain:
            return [node for node in candidates if node.down_until <= now] or candidates
        candidates = [node for node in candidates if node.weight]
        healthy = [node for node in candidates if node.down_until <= now]
        return [node for node in _first_tier(healthy or candidates) if not node.full]

    def holder(self, request: RequestHead) -> Node | None:
        """The node that a request's sticky cookie names, if it is in the pool."""
        header = request.fields.get(b"cookie")
        if header is None or self.sticky is None:
            return None
        for value in self.sticky.found(header):
            node = self._bound.get(value)
            if node is not None:
                return node
        return None

    def hash_key(self, asking: Asking) -> int:
        """What balance_hash makes of a request."""
        of = self.values["balance_hash"]
        assert isinstance(of, HashOf)
        return key_of(key_octets(of.what, of.name, asking))

    def set(self, name: str, text: str) -> None:
        """Set a tunable of the pool from its text. Raises: UnknownName, ConfigError."""
        if name.lower() in perlbal.POOL and perlbal.POOL[name.lower()].asks_for_nothing(text):
            return
        tunable = self._tunable(name)
        try:
            value = tunable.parse(text)
        except ValueError as error:
            raise bad_value(tunable.name, text, error, tunable.type.choices) from None
        self._put({**self.values, tunable.name: value}, {**self.written, tunable.name: text})

    def unset(self, name: str) -> None:
        """A tunable of the pool has its default again. Raises: UnknownName."""
        tunable = self._tunable(name)
        written = {name: text for name, text in self.written.items() if name != tunable.name}
        self._put({**self.values, tunable.name: tunable.default_value()}, written)

    def set_like(self, other: "Pool") -> None:
        """Have the tunables of another pool."""
        self._put(other.values, other.written)

    def _put(self, values: dict[str, object], written: dict[str, str]) -> None:
        with self._changing() as change:
            change.undo(self._put_back, self.values, self.written)
            self._put_back(values, written)

    def _put_back(self, values: dict[str, object], written: dict[str, str]) -> None:
        self.values, self.written = values, written
        self._reckon()

    def _tunable(self, name: str) -> Tunable:
        tunable = OF_POOLS.get(name.lower())
        if tunable is None:
            if name.lower() in perlbal.POOL:
                raise NotBuilt(perlbal.POOL[name.lower()].message, about=name)
            elsewhere = owner(name, [each.name for each in CORE])
            message = f"'{name}' is not a tunable of a pool{elsewhere}"
            raise UnknownName(message, name, () if elsewhere else OF_POOLS, kind=Kind.UNKNOWN_TUNABLE)
        return tunable

    def member(self, endpoint: Endpoint) -> Node:
        """The node of that address. Raises: UnknownName if it is no member."""
        node = self.find(endpoint)
        if node is None:
            raise UnknownName(f"pool '{self.name}' has no node {endpoint}", str(endpoint), [each.name for each in self.nodes])
        return node


def _first_tier(nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if not node.backup] or nodes
