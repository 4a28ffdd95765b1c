"""What the tests that compare our readers with others' share."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

Row = tuple[str, str, str, Callable[[bytes], bool], str]
"""Who differs (h11, httptools, both), our word, theirs, for which input, and why."""


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at `places` (taken round the end)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def assert_explained(table: Sequence[Row], name: str, data: bytes, mine: Sequence[Any], theirs: Sequence[Any]) -> None:
    """They agree, or a row of the table says why they do not."""
    if theirs == mine:
        return
    for who, our_word, their_word, applies, _reason in table:
        if who in (name, "both") and (our_word, their_word) == (mine[0], theirs[0]) and applies(data):
            return
    raise AssertionError(f"{name} differs on {data!r}: ours {mine}, theirs {theirs}")
