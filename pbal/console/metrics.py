"""Every number pbal keeps, in Prometheus' text format.

The numbers and their names are those of model/measures.py; prometheus_client writes them, so that escapes, HELP and TYPE are as every
scraper reads them. It is handed PIECE of them at a time, and others have a turn in between: a thousand nodes are ten thousand lines. A
family of samples that is cut so goes on without its HELP and TYPE, which the format has once.
"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from pbal.model.measures import Sample, samples

if TYPE_CHECKING:
    from pbal.model.world import World

PIECE: Final = 50
CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4.encode()


class _Some:
    """What prometheus_client asks for its metrics."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        return iter(self._metrics)


async def exposition(world: "World") -> bytes:
    """What a scrape reads."""
    made: list[bytes] = []
    piece: list[Sample] = []
    last = ""
    for sample in samples(world):
        piece.append(sample)
        if len(piece) == PIECE:
            made.append(_written(piece, last))
            last = piece[-1].family
            piece = []
            await asyncio.sleep(0)
    made.append(_written(piece, last))
    return b"".join(made)


def _written(piece: list[Sample], last: str) -> bytes:
    """Some samples as text. `last`: the family whose HELP and TYPE are written already."""
    metrics: list[Metric] = []
    for sample in piece:
        if not metrics or metrics[-1].name != sample.family:
            told = sample.help.replace("milliseconds", "seconds") if sample.unit == "seconds" else sample.help
            metrics.append(Metric(sample.family, told, sample.kind, sample.unit))
        metrics[-1].add_sample(sample.name, dict(sample.labels), sample.value)
    text: bytes = generate_latest(_Some(metrics))
    if metrics and metrics[0].name == last:
        lines = text.split(b"\n", 2)
        text = lines[2]
    return text
