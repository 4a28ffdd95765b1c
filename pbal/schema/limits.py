"""Of every service that answers HTTP: what a client may ask for, and the pages of errors."""

from pbal.schema.tunables import Tunable

LIMITS: tuple[Tunable, ...] = ()
