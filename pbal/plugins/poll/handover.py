"""What one generation of the plugin leaves to the next, as plain data: who waits, what the store keeps in this process, and figures.

Nothing in it is an instance of the plugin's classes, so that the next generation's may differ, and nothing but the client connections
belongs to this process.
"""

from typing import Any

from .events import EventStream
from .hub import Hub
from .longpoll import LongPoll
from .lot import Reader
from .sockets import Socket

TRANSPORTS: dict[str, type[Reader]] = {transport.transport: transport for transport in (LongPoll, EventStream, Socket)}


def pack(hub: Hub, resident: int) -> dict[str, Any]:
    """Everything of a hub and its store. It changes nothing: the reload may still fail.

    Readers go in the order they came in: who of a queue has waited longest is the order of its readers.
    """
    return {
        "readers": [reader.carry(hub.store.sweeps) for reader in sorted(hub.lot, key=lambda reader: reader.id)],
        "store": hub.store.carry(),
        "presence": hub.presence.carry(),
        "resident": resident,
        "histogram": hub.store_to_answer.pack(),
    }


def unpack(carried: dict[str, Any], hub: Hub) -> None:
    """Park who was carried, under records of this generation. The store's part is for who opens it."""
    for transport, client, keys, deadline, number, since, first_sweep, origin, address, places, state in carried["readers"]:
        reader = TRANSPORTS[transport](keys, origin, address)
        reader.client, reader.id, reader.first_sweep, reader.places = client, number, first_sweep, places
        reader.restore(hub, state)
        hub.lot.enter(reader, since, deadline)
        client.repark(reader)
    hub.presence.adopt(carried["presence"])
    hub.store_to_answer.unpack(carried["histogram"])
