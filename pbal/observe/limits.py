"""How full something is: a row of `show limits`."""

from typing import NamedTuple


class Limit(NamedTuple):
    """What may fill up."""

    what: str
    """"descriptors", "parked polls": what is counted; with its unit in the plural where that is not plain."""
    where: str
    """The service, file or the like that it belongs to; "" for the process."""
    value: int
    limit: int | None
    """None: pbal sets none."""
    then: str
    """What happens at the limit, for the operator."""
