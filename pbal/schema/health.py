"""Of pools: checks, ejection and slow start of nodes."""

from pbal.schema.tunables import Tunable

HEALTH: tuple[Tunable, ...] = ()
