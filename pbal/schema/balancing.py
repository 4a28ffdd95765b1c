"""Of pools: which node gets a request."""

from pbal.schema import types
from pbal.schema.tunables import Tunable

BALANCING: tuple[Tunable, ...] = (
    Tunable(
        "balance_method",
        types.enum("random", "round_robin", "least_connections"),
        default="random",
        summary="How pbal chooses the next node of the pool.",
        source="differs: Perlbal has random only",
    ),
)
