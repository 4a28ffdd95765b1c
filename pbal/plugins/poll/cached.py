"""The store that is memcached: what the hub asks of it, on a courier."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pbal.api import spawn

from .courier import Courier, Doubt
from .lot import Reader
from .memcached import Server
from .positions import BadPosition
from .settings import Settings
from .store import Board, BoardWork, Done, Looked, Queues, Seen, Store, StoreError

if TYPE_CHECKING:
    from .hub import Hub

log = logging.getLogger("pbal.poll")


class MemcachedStore(Store, Board):
    """Queues in memcached."""

    first_look = 0.5

    def __init__(self, hub: "Hub", doubts: dict[bytes, Doubt]) -> None:
        self._hub = hub
        self.courier = Courier(hub, self._wake_serving)
        self.courier.doubts = doubts

    def _wake_serving(self, key: bytes) -> None:
        self._hub.serving().store.wake(key)

    @property
    def sweeps(self) -> int:
        """See Store."""
        return self.courier.sweeps

    def holds(self, reader: Reader) -> bool:
        """See Store."""
        return False

    def began(self, reader: Reader, came: Iterable[bytes]) -> None:
        """See Store."""
        reader.first_sweep = self.courier.sweeps
        self.courier.look(reader, came)

    def left(self, keys: Iterable[bytes]) -> None:
        """See Store. Sweeps renewed them while it waited."""

    def wake(self, key: bytes) -> None:
        """See Store."""
        self.courier.wake(key)

    def append(self, key: bytes, data: bytes, done: Done) -> None:
        """See Store."""
        self.courier.run_publish(self._append(key, data, done))

    async def _append(self, key: bytes, data: bytes, done: Done) -> None:
        try:
            dropped = await self.courier.publish(key, data)
        except StoreError as error:
            done(error)
            return
        self._hub.evicted(key, dropped)
        with contextlib.suppress(StoreError):  # counted and said; the message is there
            await self.courier.lane_of(key).published(key)
        done(None)
        self._wake_serving(key)

    @property
    def board(self) -> Board:
        """See Store."""
        return self

    def read(self, tell: Callable[[bytes, bytes], None], keys: list[bytes]) -> None:
        """See Board."""
        self.courier.run_publish(self._here(tell, keys))

    async def _here(self, tell: Callable[[bytes, bytes], None], keys: list[bytes]) -> None:
        for server, group in self.courier.store.by_server(keys).items():
            try:
                items = await server.read(group)
            except StoreError:  # counted and said by the server
                items = {}
            for key in group:
                tell(key, items[key].value if key in items else b"")

    def work(self, work: BoardWork) -> None:
        """See Board."""
        self.courier.run_publish(work(self.courier.store.by_server))

    def put_back(self, queues: Queues) -> None:
        """See Store."""
        self.courier.put_back(queues)

    def look(self, key: bytes, done: Looked) -> None:
        """See Store."""
        self.courier.run_publish(self._look(key, done))

    async def _look(self, key: bytes, done: Looked) -> None:
        try:
            value, place = await self.courier.lane_of(key).look(key)
            done(Seen(value, None if self._hub.settings.keep == "taken" else place))
        except StoreError as error:
            done(error)

    def trim(self, key: bytes, place: bytes | None, done: Done) -> None:
        """See Store."""
        self.courier.run_publish(self._trim(key, place, done))

    async def _trim(self, key: bytes, place: bytes | None, done: Done) -> None:
        try:
            await self.courier.lane_of(key).trim(key, place)
        except (StoreError, BadPosition) as error:
            done(error)
        else:
            done(None)

    def changed(self, settings: Settings) -> None:
        """See Store."""
        self.courier.changed(settings)

    async def rest(self) -> None:
        """See Store."""
        await self.courier.rest()

    def go_on(self) -> None:
        """See Store."""
        self.courier.go_on()

    def inherit(self, doubts: dict[bytes, Doubt]) -> None:
        """Octets of which another store does not know whether it has them, or that it had: they are this one's to deliver."""
        self.courier.inherit(doubts)

    def carry(self) -> dict[str, Any]:
        """See Store."""
        return {"doubts": dict(self.courier.doubts)}

    def close(self) -> None:
        """See Store."""
        self.courier.stop_watching()
        if self._hub.serving() is not self._hub:
            self.courier.doubts.clear()  # carried on; what becomes doubtful from here, _retire hands over
        if self.courier.busy:
            spawn(self, self._retire(), "poll retire store")
        else:
            self.courier.close()

    def retire(self) -> None:
        """Another store takes its place: come to rest, then hand over what is in doubt."""
        spawn(self, self._retire(), "poll retire store")

    async def _retire(self) -> None:
        await self.courier.rest(for_publishes=True)
        store = self._hub.serving().store
        if store is not self:
            take_over(store, self._hub, self.courier.doubts)
        self.courier.close()

    def rows(self, second: float) -> Iterator[tuple[object, ...]]:
        """See Store."""
        courier = self.courier
        for lane in courier.lanes:
            server, watcher = lane.server, lane.watcher
            since = int(second - server.since)
            watch = watcher.state if courier.settings.watch else "off"
            lag = round(watcher.lag * 1000, 1)
            detail = (
                f"since {since}s sweeps {courier.sweeps} keys {lane.last_sweep_keys}"
                f" last {lane.last_sweep_ms:.1f}ms watch {watch} lag {lag}ms errors {server.errors}"
            )
            if server.last_error:
                detail += f", the last: {server.last_error}"
            trips = server.round_trips
            figures = trips.count, round(trips.percentile(0.5), 3), round(trips.percentile(0.99), 3)
            detail += f", round trips {figures[0]} median {figures[1]}ms p99 {figures[2]}ms"
            yield (
                server.name, server.state, since, lane.last_sweep_keys, round(lane.last_sweep_ms, 1), watch, lag, detail, *figures,
                server.errors, server.last_error or None,
            )  # fmt: skip

    def servers(self) -> Iterable[tuple[Server, float]]:
        """See Store."""
        return ((lane.server, lane.watcher.lag) for lane in self.courier.lanes)


def take_over(store: Store, hub: "Hub", doubts: dict[bytes, Doubt]) -> None:
    """Give a store what another one left."""
    if isinstance(store, MemcachedStore):
        store.inherit(doubts)
    else:
        hub.serving().put_back([(key, b"".join(pieces)) for key, (pieces, _) in doubts.items()])
    doubts.clear()
