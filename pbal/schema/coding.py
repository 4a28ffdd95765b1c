"""Of every service that answers HTTP: content coding of what goes out."""

from pbal.schema.tunables import Tunable

CODING: tuple[Tunable, ...] = ()
