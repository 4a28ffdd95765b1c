"""Of a reverse_proxy: connections to nodes, and the queue before them."""

from pbal.schema.tunables import Tunable

BACKENDS: tuple[Tunable, ...] = ()
