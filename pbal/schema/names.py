"""Of pools: nodes by name and from files."""

from pbal.schema.tunables import Tunable

NAMES: tuple[Tunable, ...] = ()

ACCEPTING: tuple[Tunable, ...] = ()
"""Of every service that answers HTTP: who connects to it."""
