"""Pools and nodes: who could answer, who should next.

A node's health is model/health.py's; here is what it means among the others. A pool keeps the list of those that get requests, and finds
it anew when one of them flips, or when a time is over that was known then: a pool in which all is well never looks. Of the nodes that no
operator took out,

    the healthy ones get requests: not down by their checks, not ejected
    all of them do if none of these is left, or less than panic_share: an answer from a node just restarted beats a 503
    of those, who refused a connection within the last second, or has to answer first, only if all the others were tried

A removed node is marked, never reused by a later ADD of the same address: connections that still drain know their own node and see
`removed`. What an operator ordered holds for the address in this pool, also for a node that comes again.

Who may get a request is said here (see pick); which of those gets it, in balance.py.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final, cast

from pbal.http1.events import RequestHead
from pbal.model.balance import BY_PLUGIN, CODES, HASH, Asking, choose, key_octets, key_of, weights_of
from pbal.model.change import BeginChange
from pbal.model.errors import ConfigError, UnknownName, bad_value
from pbal.model.health import DOWN, LOG_SECONDS, MAINT, READY, UP, Group, Health, Order, Policy
from pbal.model.sharing import Sharing
from pbal.model.sticky import Sticky
from pbal.observe.histogram import Histogram
from pbal.schema.balancing import HashOf
from pbal.schema.kinds import Kind
from pbal.schema.pools import OF_POOLS, owner
from pbal.schema.roles import CORE
from pbal.schema.tunables import Tunable
from pbal.schema.types import Endpoint

A_MOMENT = 5.0
"""Seconds after its last node went in which a pool is expected to get another: nodes are being exchanged."""
MOST_LEFT = 1000
"""Nodes that went while they were drained or in maintenance, of which that is remembered."""

log = logging.getLogger("pbal.health")


class Node(Health):
    """One address in a pool and what was seen of it."""

    __slots__ = ("authority", "cookie", "endpoint", "latency", "pool", "verifies")

    def __init__(self, endpoint: Endpoint, pool: "Pool") -> None:
        super().__init__(str(endpoint), pool)
        self.endpoint = endpoint
        self.authority = endpoint.authority
        """What Host says to it, where a client said nothing."""
        self.pool = pool
        self.cookie = b""
        """The value of the cookie that binds a client to it; b"" where the pool has none."""
        self.latency = Histogram()
        """How long requests took, from being sent to the end of the answer, or of the attempt."""
        self.verifies = 0
        """Connections on which it answered OPTIONS (verify_backend)."""

    def __repr__(self) -> str:
        return f"<Node {self.name} active={self.active}{' removed' if self.removed else ''}>"


_DEFAULTS: Final = {name: tunable.default_value() for name, tunable in OF_POOLS.items()}


def _nobody(pool: "Pool") -> None:
    """Nobody is told of a pool's tunables."""


class Pool(Group):
    """A named set of nodes and the way one is chosen."""

    def __init__(self, name: str, changing: BeginChange) -> None:
        self.name = name
        self.answers = 0
        self._changing = changing
        self.nodes: list[Node] = []
        self._by_endpoint: dict[Endpoint, Node] = {}
        self._many = False
        """Whether nodes come and go all at once: what they are to each other is reckoned once, and not for each of thousands."""
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
        self.policy = Policy(self.values)
        self._usable: list[Node] = []
        """Whom new requests go to, until `_until`."""
        self._reserve: list[Node] = []
        """Whom they go to when all of those were tried."""
        self._until = -inf
        """When it is to be looked anew who gets requests (clock time)."""
        self.open = False
        """Whether so few nodes are well that all get requests."""
        self.opened = 0
        """How often that was so."""
        self.open_since = 0.0
        self._told_at = -inf
        self._left: dict[Endpoint, Order] = {}
        """What holds for nodes that went, should they come again: the last MOST_LEFT of them."""
        self._weighed = False
        """Whether a node has a weight of its own, or is of the backup tier."""
        self.sharing = Sharing()
        """The services that have connections to its nodes, and who of them gets a place that becomes free."""
        self.emptied_at = -inf
        """When its last node was taken out (clock time): another may come in a moment."""
        self.added_listeners: list[Callable[[], None]] = []
        """Told when a node comes."""
        self.settled: Callable[[Pool], None] = _nobody
        """Told when its tunables have changed."""
        self.removed_listeners: list[Callable[[Node], None]] = []
        """Told of each node that was removed or put into maintenance, so that idle connections to it are closed at once."""

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
            self._by_endpoint[endpoint] = node
            if endpoint.is_name:
                self.named.append(node)
            self._set_options(node, weight, backup, most)
            change.then(self._ordered_before, node)
            for tell in list(self.added_listeners):
                tell()

    def _ordered_before(self, node: Node) -> None:
        """What was ordered of the address holds for the node that came."""
        order = self._left.pop(node.endpoint, None)
        if order is not None:
            node.ordered(order)

    def _set_options(self, node: Node, weight: int, backup: bool, most: int) -> None:
        node.weight, node.backup, node.most = weight, backup, most
        self._reckon()

    def _reckon(self) -> None:
        """Nodes, their options or tunables have changed."""
        if self._many:
            return
        every = cast(int, self.values["node_max_connections"])
        for node in self.nodes:
            node.limit = node.most or every
            if self.sticky is not None and not node.cookie:
                node.cookie = self.sticky.value(node.name)
        self._weighed = any(node.weight != 1 or node.backup for node in self.nodes)
        self._plain = not self._weighed and not any(node.limit for node in self.nodes)
        self._bound = {node.cookie: node for node in self.nodes if node.cookie}
        self.flip()

    @contextmanager
    def all_at_once(self) -> Iterator[None]:
        """Nodes come and go in the block. It does not wait, and gives nobody a node."""
        self._many = True
        try:
            yield
        finally:
            self._many = False
            self._reckon()

    def _read_balancing(self) -> None:
        """Tunables have changed."""
        self._method = CODES[str(self.values["balance_method"])]
        name, key = self.values["sticky"], self.values["sticky_key"]
        assert isinstance(name, bytes) and (key is None or isinstance(key, bytes))
        self.sticky = Sticky(name, key) if name else None
        for node in self.nodes:
            node.cookie = b""
        self._reckon()

    def remove(self, endpoint: Endpoint, now: float) -> None:
        """Take a node out at `now` (clock time); what runs on it finishes. Raises: UnknownName if it is no member."""
        self.member(endpoint)
        with self._changing() as change:
            change.then(self._take_out, endpoint, now)

    def _take_out(self, endpoint: Endpoint, now: float) -> None:
        node = self.member(endpoint)
        node.removed = True
        self.nodes.remove(node)
        del self._by_endpoint[endpoint]
        if node in self.named:
            self.named.remove(node)
        self._reckon()
        if not node.ready:
            self._left[endpoint] = node.order
            while len(self._left) > MOST_LEFT:
                self._left.pop(next(iter(self._left)))
        if not self.nodes:
            self.emptied_at = now
        if node.active:
            self.draining.append(node)
        for tell in list(self.removed_listeners):
            tell(node)

    def dissolve(self) -> None:
        """Nobody uses the pool any more, nor did: its nodes go, so that nothing is left that holds itself."""
        self.nodes.clear()
        self.named.clear()
        self._by_endpoint.clear()
        self._bound.clear()

    def released(self, node: Node) -> None:
        """A request on `node` ended; a removed node is forgotten with its last one."""
        node.active -= 1
        if self.sharing.starved:
            self.sharing.wake()
        if not node.active and (node.removed or node.trial or node.order.word is not READY):
            if node in self.draining:
                self.draining.remove(node)
            node.rested()
            self.flip()

    def order(self, endpoint: Endpoint, order: Order) -> None:
        """An operator says what is to become of a node. Raises: UnknownName if it is no member."""
        node = self.member(endpoint)
        with self._changing() as change:
            change.then(self._ordered, node, order)

    def say(self, endpoint: Endpoint, word: str, now: float, by: str, why: str) -> None:
        """An operator takes a node for UP or DOWN. Raises: UnknownName if it is no member."""
        node = self.member(endpoint)
        with self._changing() as change:
            if word == UP:
                change.then(node.unchecked)
                change.then(self._ordered, node, Order(READY, now, by, why))
            else:
                change.then(node.taken_for_down, now, by, why)

    def _ordered(self, node: Node, order: Order) -> None:
        node.ordered(order)
        if order.word is MAINT:
            for tell in list(self.removed_listeners):
                tell(node)
        elif order.word is READY:
            for come in list(self.added_listeners):
                come()

    # -- who gets requests ---------------------------------------------------------------------------------------

    def flip(self) -> None:
        """See Group."""
        self._until = -inf
        self.sharing.wake()

    def may_eject(self, node: Health, now: float) -> bool:
        """See Group."""
        ready = [each for each in self.nodes if each.ready]
        out = sum(1 for each in ready if each is node or not each.healthy(now))
        return out <= self.policy.eject_most * len(ready)

    def usable(self, now: float) -> list[Node]:
        """The nodes that new requests go to; not to be changed."""
        return self._usable if now < self._until else self._look(now)

    def may_take(self, node: Node) -> bool:
        """Whether a connection to a node that has become free may serve whoever waits, without a choice."""
        return node.ready and (self.open or not (node.ejected or node.check is DOWN or node.occupied))

    def use(self, node: Node, now: float) -> str:
        """Whether new requests go to a node, for people: yes, no, or why not although it is well: backup, weight 0."""
        if node in self.usable(now):
            return "yes"
        if not node.ready or not node.healthy(now):
            return "no"
        return "weight 0" if not node.weight else "backup" if node.backup else "no"

    def _look(self, now: float) -> list[Node]:
        """Find the nodes that get requests, and until when."""
        ready = [node for node in self.nodes if node.ready and node.weight]
        first = [node for node in ready if not node.backup]
        spare = [node for node in ready if node.backup and node.healthy(now)]
        healthy = [node for node in first if node.healthy(now)]
        usable = [node for node in healthy if not node.at_rest(now)]
        few = len(healthy) < len(first) and (not healthy or len(healthy) < self.policy.panic * len(first))
        awake = [] if usable else [node for node in spare if not node.at_rest(now)]
        if awake:
            usable, few = awake, False
        elif few or not first:
            healthy = first or ready
            usable = [node for node in healthy if not node.at_rest(now)]
        self._usable = usable or healthy
        self._reserve = healthy + spare
        if few is not self.open:
            self._opened(few, sum(node.healthy(now) for node in first), len(first), now)
        self.starting = False
        self._until = inf
        slow = self.policy.slow_start
        for node in ready:
            if node.ejected and node.ejected_until > now:  # else a check has to find it well, and says so
                self._until = min(self._until, node.ejected_until)
            if node.rests_until > now:
                self._until = min(self._until, node.rests_until)
            if slow and node.share(now) < 1:
                self.starting = True
                self._until = min(self._until, node.returned_at + slow)
        return self._usable

    def _opened(self, few: bool, healthy: int, ready: int, now: float) -> None:
        self.open, self.open_since = few, now
        if few:
            self.opened += 1
        if now - self._told_at < LOG_SECONDS:
            return
        self._told_at = now
        fields = {"event": "pool_open" if few else "pool_closed", "pool": self.name, "healthy": healthy, "nodes": ready}
        if few:
            log.warning("pool %(pool)s: %(healthy)d of %(nodes)d nodes are well: all of them get requests", fields)
        else:
            log.info("pool %(pool)s: %(healthy)d of %(nodes)d nodes are well: the others get no requests any more", fields)

    def why_none(self) -> str:
        """Why `pick` found no node."""
        if not self.nodes:
            return f"pool {self.name} has no node"
        if not any(node.ready for node in self.nodes):
            return f"every node of pool {self.name} is drained or in maintenance"
        if not any(node.ready and node.weight for node in self.nodes):
            return f"every node of pool {self.name} that is not drained or in maintenance has the weight 0"
        return ""

    def find(self, endpoint: Endpoint) -> Node | None:
        """The node of that address, if it is in the pool."""
        return self._by_endpoint.get(endpoint)

    @property
    def retry_room(self) -> int:
        """How many of the requests in progress may be ones that were sent again (retry_budget)."""
        percent, least = self.values["retry_budget"], self.values["retry_budget_least"]
        assert isinstance(percent, int) and isinstance(least, int)
        live = sum([node.active for node in self.nodes]) + sum([node.active for node in self.draining])
        return max(least, live * percent // 100)

    @property
    def choosy(self) -> bool:
        """Whether it matters on which node a request that was given one ends: no other's connection will do that becomes free first."""
        return self._weighed or self.sticky is not None or self._method == HASH

    def pick(self, now: float, tried: tuple[Node, ...] = (), asking: Asking | None = None, method: int = -1) -> Node | None:
        """Choose a node that was not tried yet; None when none is left.

        `asking` is the request it is for: what hash and sticky cookies look at. `method` is one of balance.py's in place of the pool's own.
        """
        usable = self._usable if now < self._until else self._look(now)
        if self._plain and len(usable) == 1 and not tried and not self._bound:
            return usable[0]
        if self._bound and asking is not None:
            held = self.holder(asking.request)
            if held is not None and held not in tried and held.takes_sessions and not held.at_rest(now) and not held.full:
                return held
        candidates = usable if self._plain and not tried else self._candidates(usable, tried)
        if not candidates:
            return None
        if method >= BY_PLUGIN - 1:
            method -= BY_PLUGIN
            place = asking.chosen(candidates) if asking is not None else -1
            if place >= 0:
                return candidates[place]
        if method < 0:
            method = self._method
        key = self.hash_key(asking) if method == HASH and asking is not None else None
        weights = None if self._plain and not self.starting else weights_of(candidates, now)
        return candidates[choose(method, candidates, weights, key)]

    def _candidates(self, usable: list[Node], tried: tuple[Node, ...]) -> list[Node]:
        """Who may have a request. Backup nodes may while no other could: that the others are full is no reason."""
        if tried:
            usable = [node for node in usable if node not in tried]
            if not usable:
                reserve = [node for node in self._reserve if node not in tried and not node.occupied]
                usable = [node for node in reserve if not node.backup] or reserve
        return usable if self._plain else [node for node in usable if not node.full]

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

    def hash_key(self, asking: Asking) -> int | None:
        """What balance_hash makes of a request; None where there is nothing that it could be made of."""
        of = self.values["balance_hash"]
        assert isinstance(of, HashOf)
        octets = key_octets(of.what, of.name, asking)
        return key_of(octets) if octets else None

    def set(self, name: str, text: str) -> None:
        """Set a tunable of the pool from its text. Raises: UnknownName, ConfigError."""
        tunable = self._tunable(name)
        try:
            value = tunable.parse(text)
        except ValueError as error:
            raise bad_value(tunable.name, text, error, tunable.type.choices) from None
        self._put({**self.values, tunable.name: value}, {**self.written, tunable.name: text})

    def unset(self, name: str) -> None:
        """A tunable of the pool has its default again. Raises: UnknownName; ConfigError if it was not set."""
        tunable = self._tunable(name)
        if tunable.name not in self.written:
            raise ConfigError(f"{tunable.name} was not set on '{self.name}'", about=tunable.name)
        written = {name: text for name, text in self.written.items() if name != tunable.name}
        self._put({**self.values, tunable.name: tunable.default_value()}, written)

    def set_like(self, other: "Pool") -> None:
        """Have the tunables of another pool."""
        self._put(other.values, other.written)

    def _put(self, values: dict[str, object], written: dict[str, str]) -> None:
        with self._changing() as change:
            change.undo(self._put_back, self.values, self.written)
            self._put_back(values, written)
            change.then(self._tell)

    def _tell(self) -> None:
        self.settled(self)

    def _put_back(self, values: dict[str, object], written: dict[str, str]) -> None:
        self.values, self.written = values, written
        self.policy = Policy(values)
        self._read_balancing()

    def _tunable(self, name: str) -> Tunable:
        tunable = OF_POOLS.get(name.lower())
        if tunable is None:
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
