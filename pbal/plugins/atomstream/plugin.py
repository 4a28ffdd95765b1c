"""The plugin: its life, who asks for a stream, and what is looked at. What happens then is in fanout.py."""

from collections.abc import Iterable
from typing import Any, Final

from pbal.api import SIZE, Counter, Exchange, Explanation, Limit, Plugin, Tunable, Verdict, hook

from .fanout import Fanout

NAME: Final = b"/atom-stream.xml"
FIELDS: Final = ((b"Content-Type", b"text/xml"), (b"Cache-Control", b"no-store"), (b"X-Accel-Buffering", b"no"))


class AtomStream(Plugin):
    """The readers of one service."""

    roles = frozenset({"web_server", "reverse_proxy", "selector"})
    tunables = (
        Tunable("atom_stream_buffer", SIZE, default="256k", minimum="1k", unit="bytes", source="Perlbal's AtomStream",
                summary="A reader for whom more than this waits is left out, and told how many items it missed."),
        Tunable("atom_stream_memory", SIZE, default="4m", minimum="1k", unit="bytes", source="pbal",
                summary="Items of the last 60 seconds that are kept for readers who come back."),
    )  # fmt: skip
    counters = (
        Counter("atom_streams", "Readers of atom streams now.", gauge=True),
        Counter("atom_items", "Items published to the readers of a service."),
        Counter("atom_items_missed", "Items that a reader was not given because it was too slow. It is told."),
        Counter("atom_items_forgotten", "Items that were not kept for 60 seconds, because of atom_stream_memory."),
    )

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.fanout = Fanout(service, world)
        self._adopted: dict[str, Any] = {}

    # -- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """See Plugin."""
        adopted, self._adopted = self._adopted, {}
        if adopted:
            self.fanout.unpack(adopted)

    def carry(self) -> dict[str, Any]:
        """See Plugin."""
        return self.fanout.pack()

    def adopt(self, carried: dict[str, Any]) -> None:
        """See Plugin."""
        self._adopted = carried

    def resume(self) -> None:
        """See Plugin."""
        self.fanout.repark()

    def close(self) -> None:
        """See Plugin."""
        if any(plugin is self for _, plugin in self.service.plugins):  # else another generation has them, or one that never served
            self.fanout.end()
        self.fanout.stop()

    def service_disabled(self) -> None:
        """See Plugin."""
        self.fanout.end()

    # -- for atominject ------------------------------------------------------------------------------------------

    def busy(self) -> bool:
        """Whether the next item has to wait, because many are still going round."""
        return self.fanout.going_round > int(self.service["atom_stream_buffer"])

    def publish(self, path: bytes, data: bytes) -> None:
        """Give an item to everybody who reads at its path or above: to each within the next turns of the loop."""
        self.fanout.publish(path, data)

    # -- requests ------------------------------------------------------------------------------------------------

    @hook.start_http_request
    def begin(self, exchange: Exchange) -> Verdict:
        path = exchange.plain_path
        if not path.endswith(NAME):
            return Verdict.PASS
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.error(405, b"A stream can be read: GET.\n", [(b"Allow", b"GET, HEAD")])
            return Verdict.TAKEN
        said = since(exchange.request.query)
        if said is None:
            exchange.error(400, b"since is a whole number of seconds since 1970.\n")
            return Verdict.TAKEN
        fanout = self.fanout
        reader = fanout.new(path.removesuffix(NAME))
        beginning = fanout.beginning(reader.room, said)
        client = exchange.park(reader)
        if exchange.method == b"HEAD":
            client.begin(reader, 200, FIELDS, b"")
            client.finish(reader, b"")
            fanout.leave(reader.room)
            return Verdict.TAKEN
        fanout.enter(reader, client)
        if not client.begin(reader, 200, FIELDS, beginning):
            fanout.left(reader)
        return Verdict.TAKEN

    # -- being looked at -----------------------------------------------------------------------------------------

    def explain(self, exchange: Exchange) -> Explanation | None:
        """See Plugin."""
        path = exchange.plain_path
        if not path.endswith(NAME):
            return None
        return Explanation([f"a stream of what is published below {path.removesuffix(NAME).decode('utf-8', 'replace') or '/'}"], takes=True)

    def limits(self) -> Iterable[Limit]:
        """See Plugin."""
        name, values = self.service.name, self.service.values
        return (
            Limit(
                "atom bytes going round", name, self.fanout.going_round, values["atom_stream_buffer"],
                "503 for who publishes, counted in atom_items_refused (atom_stream_buffer)",
            ),
            Limit(
                "atom bytes kept", name, self.fanout.octets, values["atom_stream_memory"],
                "the oldest items go, counted in atom_items_forgotten (atom_stream_memory)",
            ),
        )  # fmt: skip


def since(query: bytes) -> int | None:
    """The time that a reader asks for; 0 where it asks for none, None where that is no number."""
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"since":
            return int(value) if value.isdigit() and len(value) < 12 else None
    return 0
