"""Of a reverse_proxy: answers that a node leaves to pbal."""

from pbal.schema.tunables import Tunable

REPROXY: tuple[Tunable, ...] = ()
