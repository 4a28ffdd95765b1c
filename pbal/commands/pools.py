"""POOL ADD, POOL REMOVE."""

from pbal.commands.session import Session
from pbal.model.errors import ConfigError
from pbal.model.nodefile import path_of
from pbal.model.pool import Pool
from pbal.schema.commands import OK, Reply, command
from pbal.schema.kinds import Kind
from pbal.schema.types import Endpoint


@command
def pool_add(
    session: Session, pool: Pool, node: Endpoint, node_weight: int = 1, backup: bool = False, node_max: int = 0
) -> Reply:  # fmt: skip
    """Add a node to a pool, or change the options of one that is there: it keeps its place and its counts.

    WEIGHT (0 to 1000; 1 if it is not said) is the node's share of new requests, measured against those of the others. A node of weight 0
    gets no new requests, but keeps the sessions that it holds (see sticky). A BACKUP node gets requests only while no other node of the
    pool is usable. MAX is the number of connections to the node that may be in use at once; without it there is no limit.
    An option that is not said again is as if it had never been said.
    Source: Perlbal manual, POOL ADD. differs: adding a node again keeps its place and counts; the options; IPv6 addresses and host names
    work too.
    """
    _look_at_file(session, pool)
    pool.add(node, node_weight, backup, node_max)
    return OK


@command
def pool_remove(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Remove a node from a pool. Its requests finish, and its idle connections close.

    Raises: UnknownName if the pool has no such node.
    Source: Perlbal manual, POOL REMOVE. differs: its idle connections are not used again; a node that is no member is an error.
    """
    _look_at_file(session, pool)
    pool.remove(node, session.world.clock.now())
    return OK


def _look_at_file(session: Session, pool: Pool) -> None:
    """Nodes of a pool that has them in a file: at a console they change until it is written again. Raises: ConfigError in a file."""
    path = path_of(pool)
    if path is None:
        return
    if not session.live:
        message = f"the nodes of pool '{pool.name}' stand in {path}: this one would be lost when that is read"
        raise ConfigError(message, about=pool.name, kind=Kind.CONFLICT, against=("set", pool.name.lower(), "nodefile"))
    session.warn(f"the nodes of pool '{pool.name}' stand in {path}: this holds until it is written again")
