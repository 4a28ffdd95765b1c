"""POOL ADD, POOL REMOVE."""

from pbal.commands.session import Session
from pbal.model.pool import Pool
from pbal.schema.commands import OK, Reply, command
from pbal.schema.types import Endpoint


@command
def pool_add(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Add a node to a pool. Adding one twice changes nothing.

    Source: Perlbal manual, POOL ADD. differs: adding again keeps place and counts; IPv6 and names too.
    """
    pool.add(node)
    return OK


@command
def pool_remove(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Take a node out of a pool. What runs on it finishes; its idle connections close.

    Source: Perlbal manual, POOL REMOVE. differs: idle connections are not used any more.
    """
    pool.remove(node, session.world.clock.now())
    return OK
