"""Long polls: one answer each. The request's connection goes on with its next request."""

import random
from typing import Any, ClassVar

from pbal.api import DURATION, Exchange

from . import cors
from .delivery import BAD_POSITION, REMOVED, SUPERSEDED, TIME_IS_OVER, Delivery
from .formats import Rendered, render, text
from .grants import Grant
from .hub import NO_STORE, Hub
from .lot import Reader
from .names import BadName, query_values
from .settings import Settings

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class LongPoll(Reader):
    """A parked poll."""

    __slots__ = ()

    transport: ClassVar[str] = "poll"
    stays: ClassVar[bool] = False

    def half_closed(self) -> bool:
        """See model.parking.Patient: the store may not have said yet what it has. It gets a moment."""
        lot = self.lot
        return lot is not None and lot.on_half_closed(self)

    def give(self, hub: Hub, delivery: Delivery) -> bool:
        """See Reader."""
        settings = hub.settings
        position, rendered = self.rendered(hub, delivery, "poll")
        status, fields, body = answer(settings, rendered, self.origin, position, delivery.missed(settings))
        return self.client is not None and self.client.answer(self, status, fields, body, hub.on_lost(self, delivery), settings.ack_timeout)

    def render(self, settings: Settings, delivery: Delivery, position: bytes) -> Rendered:
        """See Reader."""
        return render(settings.format, delivery.names(settings), settings.framing, position, delivery.missed(settings))

    def end(self, hub: Hub, why: str) -> None:
        """See Reader."""
        if self.client is None:
            return
        if why in (BAD_POSITION, REMOVED):
            status, words = (
                (400, b"The position was not given by this server.\n") if why == BAD_POSITION else (410, b"The queue was deleted.\n")
            )
            self.client.answer(self, status, [NO_STORE, *cors.fields_for(self.origin)], words, None)
            return
        settings = hub.settings
        position = self.token()
        rendered = render(settings.format, (), settings.framing, position, (), why == SUPERSEDED)
        status, fields, body = answer(settings, rendered, self.origin, position, ())
        if status == 409:
            fields.append((b"Retry-After", b"1"))
        self.client.answer(self, status, fields, body, None)


def answer(settings: Settings, rendered: Rendered, origin: bytes | None, position: bytes, gaps: Any) -> Answer:
    """Status, fields and body of a poll's answer."""
    fields = [NO_STORE]
    if rendered.status == 409:
        fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
    elif rendered.status != 204:
        fields.append((b"Content-Type", rendered.media_type))
    if position:
        fields.append((b"Poll-Position", position))
        if settings.etag:
            fields.append((b"ETag", b'"%b"' % position))
    if gaps:
        fields.append((b"Poll-Gap", b", ".join(cors.quoted(name) for name in gaps)))
    if origin is not None:
        fields += cors.fields_for(origin)
        if settings.keep != "taken":
            fields.append((b"Access-Control-Expose-Headers", b"Poll-Position, Poll-Gap"))
    return rendered.status, fields, rendered.body


def begin(hub: Hub, exchange: Exchange, keys: tuple[bytes, ...], places: dict[bytes, bytes], grant: Grant | None) -> None:
    """A poll came. Raises: BadName for a timeout that is none."""
    settings = hub.settings
    seconds = settings.timeout
    asked = next(query_values(exchange.request.query, b"timeout"), None)
    if asked is not None:
        try:
            seconds = min(seconds, DURATION.parse(text(asked)))
        except ValueError:
            raise BadName("timeout is a number of seconds") from None
    reader = LongPoll(keys, cors.origin_of(exchange, settings.origins))
    reader.stand_at(places)
    if hub.world.draining and not hub.store.holds(reader):
        hub.counts["poll_empty"] += 1
        position = reader.token()
        rendered = render(settings.format, (), settings.framing, position)
        exchange.respond(*answer(settings, rendered, reader.origin, position, ()))
        return
    # Earlier by up to a tenth, each its own time, so that clients do not come back in step.
    hub.admit(exchange, reader, max(seconds * (1 - random.random() / 10), hub.store.first_look), grant)
    if not seconds and not hub.store.first_look:
        hub.finish(reader, TIME_IS_OVER)
