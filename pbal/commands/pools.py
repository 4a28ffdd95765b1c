"""POOL ADD, POOL REMOVE."""

from pbal.commands.session import Session
from pbal.model.pool import Pool
from pbal.schema.commands import OK, Reply, command
from pbal.schema.types import Endpoint


@command
def pool_add(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Add a node to a pool. Adding it again changes nothing.

    Source: Perlbal manual, POOL ADD. differs: adding a node again keeps its place and counts; IPv6 addresses and host names work too.
    """
    pool.add(node)
    return OK


@command
def pool_remove(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Remove a node from a pool. Its requests finish, and its idle connections close.

    Raises: UnknownName if the pool has no such node.
    Source: Perlbal manual, POOL REMOVE. differs: its idle connections are not used again; a node that is no member is an error.
    """
    pool.remove(node, session.world.clock.now())
    return OK
