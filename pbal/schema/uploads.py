"""Of a reverse_proxy: request bodies, collected, spooled, followed."""

from pbal.schema.tunables import Tunable

UPLOADS: tuple[Tunable, ...] = ()
