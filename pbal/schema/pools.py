"""What SET accepts of a pool."""

from collections.abc import Iterable

from pbal.schema.backends import OF_NODES
from pbal.schema.balancing import BALANCING
from pbal.schema.health import HEALTH
from pbal.schema.names import NAMES
from pbal.schema.tunables import SERVER, Tunable

POOL: tuple[Tunable, ...] = (*BALANCING, *HEALTH, *NAMES, *OF_NODES)

OF_POOLS: dict[str, Tunable] = {tunable.name: tunable for tunable in POOL}
"""By name."""


def owner(name: str, services: Iterable[str] = ()) -> str:
    """Whose tunable a name is and how it is said, for who said it of something else: '' or '; it belongs to ...'.

    `services` are the names of the tunables that services have.
    """
    folded = name.lower()
    if any(tunable.name == folded for tunable in SERVER):
        return f"; it belongs to SERVER: SERVER {folded} = VALUE"
    if folded in OF_POOLS:
        return f"; it belongs to pools: SET POOL.{folded} = VALUE"
    return f"; it belongs to services: SET SERVICE.{folded} = VALUE" if folded in services else ""
