"""Positions: where a reader stands in its queues, and the token that says so to the client.

A queue that keeps its messages has an epoch, a random name it gets when pbal first sees it, and every octet of it an offset,
counted since then. A place is where a reader stands in one queue; a token is the places of all queues of an answer.

A place, 24 octets:     queue    4   which queue: a hash of its key
                        epoch    5   which epoch: a hash of its name
                        offset   6   octets before it
                        seal     9   of the three, keyed with the epoch's name

The epoch's name never leaves pbal and its store. So it is the key of the seal: a place that pbal did not write does not pass, on any
pbal that shares the store, and nobody has to configure a secret. A place of an epoch that is gone cannot be judged, and
need not be: its reader gets all that is there, and is told of the gap.

Equal places are equal octets. That is what makes ten thousand readers of a room cheap: they are compared, not understood.
"""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from hmac import compare_digest

PLACE = 24
_OFFSET = slice(9, 15)
_LARGEST = (1 << 48) - 1


class BadPosition(ValueError):
    """A token that pbal did not give, or gave for other queues. The text is for the client."""


def new_epoch() -> bytes:
    """A name for an epoch: 8 random octets."""
    return os.urandom(8)


def _queue(key: bytes) -> bytes:
    return blake2b(key, digest_size=4).digest()


def _place(key: bytes, epoch: bytes, offset: int) -> bytes:
    head = _queue(key) + blake2b(epoch, digest_size=5).digest() + offset.to_bytes(6, "big")
    return head + blake2b(head, digest_size=9, key=epoch).digest()


class Log:
    """What is kept of one queue at a moment. Offsets and `base` are in octets."""

    __slots__ = ("base", "data", "end", "epoch", "key")

    def __init__(self, key: bytes, epoch: bytes, base: int, data: bytes) -> None:
        self.key = key
        self.epoch = epoch
        self.base = base
        """The offset of the first octet of `data`."""
        self.data = data
        self.end = _place(key, epoch, base + len(data)) if epoch else b""
        """The place of a reader that has everything; b"" in a queue without an epoch, which the store had no room to mark."""

    def find(self, place: bytes | None, everything: bool) -> tuple[int, bool]:
        """The offset from which a reader lacks messages, and whether some before it are lost to it.

        `place` is None for a reader that says none: it lacks `everything`, or nothing. Raises: BadPosition for a place that nobody gave.
        """
        length = len(self.data)
        if place == self.end:
            return self.base + length, False
        if not self.epoch:
            return self.base, place is not None
        if place is None:
            return self.base + (0 if everything else length), False
        if place[4:9] != self.end[4:9]:
            return self.base, True
        offset = int.from_bytes(place[_OFFSET], "big")
        if not compare_digest(place, _place(self.key, self.epoch, offset)):
            raise BadPosition("the position was not given by this server")
        if not self.base <= offset <= self.base + length:
            return self.base, True
        return offset, False

    def is_older(self, place: bytes | None) -> bool:
        """Whether a place of this epoch, if it is no forged one, was given when there was more than here."""
        return place is not None and place[4:9] == self.end[4:9] and place[_OFFSET] > self.end[_OFFSET]

    def gave(self, place: bytes) -> bool:
        """Whether a place of this epoch is no forged one."""
        return compare_digest(place, _place(self.key, self.epoch, int.from_bytes(place[_OFFSET], "big")))

    def at(self, offset: int) -> bytes:
        """The place of an offset."""
        return _place(self.key, self.epoch, min(offset, _LARGEST))


def token(places: Iterable[bytes]) -> bytes:
    """The token of these places: URL-safe, 32 octets for each queue, the same for the same places."""
    return urlsafe_b64encode(b"".join(sorted(places)))


def read_token(text: bytes, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """The places a token holds for these queues. Raises: BadPosition.

    A queue of which it says nothing is read as without a position: a client may wait on one more. What it says of a queue that is
    not asked for is passed over, as long as it says something of one that is: a client may leave a queue.
    """
    try:
        octets = urlsafe_b64decode(text)
    except ValueError:
        octets = b""
    if not octets or len(octets) % PLACE or urlsafe_b64encode(octets) != text:
        raise BadPosition("the position is not one that this server gives")
    by_queue = {_queue(key): key for key in keys}
    places: dict[bytes, bytes] = {}
    for start in range(0, len(octets), PLACE):
        place = octets[start : start + PLACE]
        key = by_queue.get(place[:4])
        if key is None:
            continue
        if key in places:
            raise BadPosition("the position tells two places of one queue")
        places[key] = place
    if not places:
        raise BadPosition("the position is one of other queues")
    return places
