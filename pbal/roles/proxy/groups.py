"""The connections of one service to its pools: a Backends for each pool that it uses.

`main` is that of SET pool. A rule or a fallback may send a request to another pool: `of` has, or makes, its Backends. When SET pool names
another one, the former Backends retires: who waits there seeks again and finds the new one, bored connections close, and the
requests that run finish where they are. So it is when the service has nothing to do with a pool any more: who waits there, and who comes
for it later, because a body took its time, is sent where the rules say now (relay.py).
"""

from pbal.model.pool import Pool
from pbal.roles.proxy.backends import Backends
from pbal.roles.proxy.queue import CLASSES
from pbal.roles.proxy.terms import Terms


class Groups:
    """See above."""

    __slots__ = ("_by_pool", "_pools", "main", "terms")

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.main = Backends(terms, None)
        self._by_pool: dict[Pool, Backends] = {}
        self._pools: frozenset[Pool] = frozenset()
        """Those that the service has to do with."""

    def of(self, pool: Pool | None) -> Backends:
        """The connections to a pool; those of SET pool where it is None."""
        if pool is None or pool is self.main.pool:
            return self.main
        found = self._by_pool.get(pool)
        if found is None:
            found = self._by_pool[pool] = Backends(self.terms, pool)
        return found

    def all(self) -> list[Backends]:
        """Every one, the main one first."""
        return [self.main, *self._by_pool.values()]

    def use(self, pool: Pool | None) -> None:
        """SET pool names another one."""
        former = self.main
        if pool is former.pool:
            return
        kept = self._by_pool.pop(pool, None) if pool is not None else None
        self.main = Backends(self.terms, pool) if kept is None else kept
        former.retire()

    def keep(self) -> None:
        """Pools were named, or are named no more. Connections to those close when they are bored, as those of a former SET pool do."""
        service = self.terms.service
        known = service.world.pools
        self._pools = frozenset(known[name.lower()] for name in service.pools() if name.lower() in known)
        for pool in [pool for pool in self._by_pool if pool not in self._pools]:
            self._by_pool.pop(pool).retire()

    def has(self, pool: Pool) -> bool:
        """Whether the service has to do with a pool."""
        return pool in self._pools

    def named(self, name: str) -> Pool | None:
        """The pool of that name, if the service has to do with it. What plugins name may have changed without a word."""
        pool = self.terms.service.world.pools.get(name.lower())
        if pool is not None and pool not in self._pools:
            self.keep()
        return pool if pool in self._pools else None

    def close_bored(self) -> None:
        """Connections that wait for a request are of no use any more."""
        for backends in self.all():
            backends.close_bored()

    def tick(self, now: float) -> None:
        """Once a second."""
        for backends in self.all():
            backends.tick(now)
        kept = max(int(self.terms.service.values["backend_persist_cache"]), self.terms.ahead)
        surplus = sum(len(backends.bored) for backends in self.all()) - kept
        if surplus > 0:
            every = sorted((backend for backends in self.all() for backend in backends.bored), key=lambda backend: backend.bored_since)
            for backend in every[:surplus]:
                if backend.bored_since + 1 < now:
                    backend.abort()

    def close(self) -> None:
        """The service is going."""
        for backends in self.all():
            backends.close()

    def queues(self, now: float) -> dict[str, tuple[int, int]]:
        """Who waits, by class: number, and seconds that the first of them has waited."""
        every = self.all()
        found = {}
        for name, priority in CLASSES:
            first = [seeker.started for backends in every if (seeker := backends.queue.first(priority)) is not None]
            found[name] = sum(backends.queue.number(priority) for backends in every), int(now - min(first, default=now))
        return found

    def load(self) -> tuple[int, int, int]:
        """Clients that wait; connections that are being opened; those kept for the next request."""
        every = self.all()
        return (
            sum(len(backends.queue) for backends in every),
            sum(len(backends.opening) for backends in every),
            sum(len(backends.bored) for backends in every),
        )
