"""Server-Sent Events (WHATWG HTML, section 9.2): a poll whose client accepts text/event-stream gets a stream that stays open.

    retry: 2130                     when to come back, each client its own time
    id: TOKEN                       where the reader stands after this message (queues with positions): Last-Event-ID brings it back
    event: QUEUE                    where the stream waits for several queues
    data: the message, a line each
    event: gap / data: QUEUE        messages of this queue were missed
    event: superseded, removed, bad-position    the stream ends, and why; RESERVED: no queue of several has such a name
    :                               a heartbeat, every poll_heartbeat

A stream is a reader that stays. Each message has the id of its own place, so that a stream that breaks in the middle of many goes on
exactly there. Who does not take what is sent is ended when more than poll_stream_buffer waits for it: it comes back with its last id.
After poll_stream_time a stream ends, so that clients move to where there is room.
"""

import random
import re
from typing import ClassVar

from pbal.api import Exchange

from . import cors
from .delivery import BAD_POSITION, REMOVED, SUPERSEDED, Delivery
from .formats import Rendered, sse_message
from .grants import Grant
from .hub import NO_STORE, Hub
from .lot import Staying
from .names import BadName
from .settings import Settings

RETRY = 1000, 3000
"""Milliseconds after which a client comes back: a time of its own between these."""
MEDIA_TYPE = b"text/event-stream"
BEAT = b":\n\n"
_REASONS = {SUPERSEDED: b"superseded", REMOVED: b"removed", BAD_POSITION: b"bad-position"}
RESERVED = frozenset({b"gap", *_REASONS.values(), b"open", b"error"})
"""Events that are not a queue's: ours, and those that EventSource itself tells its page of."""
_REFUSED = re.compile(rb";[ \t]*q=0(?:\.0*)?[ \t]*(?:;|$)")


class EventStream(Staying):
    """A stream of events."""

    __slots__ = ()

    transport: ClassVar[str] = "sse"

    def opened(self, hub: Hub) -> None:
        """See Reader."""
        if self.client is None:
            return
        fields = [NO_STORE, (b"Content-Type", MEDIA_TYPE), (b"X-Accel-Buffering", b"no")]
        self.client.begin(self, 200, [*fields, *cors.fields_for(self.origin)], b"retry: %d\n\n" % random.randint(*RETRY))

    def give(self, hub: Hub, delivery: Delivery) -> bool:
        """See Reader."""
        if self.client is None:
            return False
        _, rendered = self.rendered(hub, delivery, "sse, named" if isinstance(self.keys, tuple) else "sse")
        return hub.push(self, rendered.body, delivery)

    def render(self, settings: Settings, delivery: Delivery, position: bytes) -> Rendered:
        """See Reader. Each event has the position of its own place, the last one that of all."""
        several = isinstance(self.keys, tuple)
        parts = [b"event: gap\ndata: %b\n\n" % name for name in delivery.missed(settings)]
        full = {key for key, _ in delivery.queues}
        moved = {key: place for key, place in (delivery.moved or {}).items() if key not in full}
        good = True
        for run in delivery.runs(settings):
            good = good and run.framed
            event = b"event: %b\n" % run.name if several else b""
            for message, place in run.messages:
                if place is not None:
                    moved[run.key] = place
                    event_id = b"id: %b\n" % self.token(moved)
                else:
                    event_id = b""
                parts.append(event_id + event + sse_message(message))
        if delivery.moved and not delivery.queues:  # only a gap: from here on
            parts.append(b"id: %b\n\n" % position)
        return Rendered(200, MEDIA_TYPE, b"".join(parts), not good)

    def end(self, hub: Hub, why: str) -> None:
        """See Reader."""
        reason = _REASONS.get(why)
        if self.client is not None:
            self.client.finish(self, b"" if reason is None else b"event: %b\ndata:\n\n" % reason)

    def beat(self, hub: Hub) -> None:
        """See Reader."""
        hub.push(self, BEAT, None)


def wanted(exchange: Exchange) -> bool:
    """Whether a poll asks for a stream."""
    accept = exchange.request.fields.get(b"accept", b"").lower()
    return any(part.split(b";")[0].strip() == MEDIA_TYPE and not _REFUSED.search(part) for part in accept.split(b","))


def begin(hub: Hub, exchange: Exchange, keys: tuple[bytes, ...], places: dict[bytes, bytes], grant: Grant | None) -> None:
    """A client asks for a stream. Raises: BadName for queues whose events nobody could tell from others."""
    prefix = len(hub.settings.prefix)
    for key in keys if len(keys) > 1 else ():
        if key[prefix:] in RESERVED:
            raise BadName(f"a stream of several queues names them in its events, and {key[prefix:].decode()!r} is an event of its own")
    reader = EventStream(keys, cors.origin_of(exchange, hub.settings.origins))
    reader.stand_at(places)
    hub.admit_stream(exchange, reader, grant)
