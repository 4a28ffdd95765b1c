"""Long work on the loop, in slices: others have their turn between two of them."""

import asyncio
import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

SLICE = 0.004
"""Seconds in one turn of the loop."""


async def in_slices(steps: Generator[None, None, T]) -> T:
    """What a generator returns, run in slices."""
    end = perf_counter() + SLICE
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: T = ended.value
            return result
        if perf_counter() > end:
            await asyncio.sleep(0)
            end = perf_counter() + SLICE


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made in the block is all in use, and taken to pieces at its end: the collector would look through it for nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
