"""Of a reverse_proxy: what nodes are told of the client."""

from pbal.schema.tunables import Tunable

FORWARDING: tuple[Tunable, ...] = ()
