"""POOL DRAIN, MAINT, READY, DOWN and UP: what an operator says of a node. CHECK: a check of nodes now.

These are operations and no configuration: dumpconfig, CONFIG DRIFT and CONFIG SAVE know nothing of them, RELOAD CONFIG leaves them as they
are, and an order holds for the address in its pool also when the node goes and comes again. A new start begins with every node READY.
"""

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.model.health import DOWN, DRAIN, MAINT, READY, UP, Order
from pbal.model.pool import Pool
from pbal.schema.commands import OK, Reply, command
from pbal.schema.types import Endpoint


def _who(session: Session) -> str:
    return session.who or session.origin


def _ordered(session: Session, pool: Pool, node: Endpoint, word: str, reason: str | None) -> Reply:
    session.runtime()
    pool.order(node, Order(word, session.world.clock.now(), _who(session), (reason or "").strip()))
    return OK


@command
def pool_drain(session: Session, pool: Pool, node: Endpoint, reason: str | None = None) -> Reply:
    """Send a node no new requests, but those that belong to it by a sticky cookie. What it works on finishes; the log says when.

    `show health` shows since when, by whom and the reason. It is no part of the configuration: RELOAD CONFIG leaves it as it is.
    Raises: UnknownName if the pool has no such node.
    """
    return _ordered(session, pool, node, DRAIN, reason)


@command
def pool_maint(session: Session, pool: Pool, node: Endpoint, reason: str | None = None) -> Reply:
    """Take a node into maintenance: no new requests, and no checks; its idle connections close. What it works on finishes.

    `show health` shows since when, by whom and the reason. It is no part of the configuration: RELOAD CONFIG leaves it as it is.
    Raises: UnknownName if the pool has no such node.
    """
    return _ordered(session, pool, node, MAINT, reason)


@command
def pool_ready(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Use a node again: after DRAIN and MAINT, or before the time for which it is ejected is over. What its checks found holds.

    Raises: UnknownName if the pool has no such node.
    """
    return _ordered(session, pool, node, READY, None)


@command
def pool_down(session: Session, pool: Pool, node: Endpoint, reason: str | None = None) -> Reply:
    """Take a node for down, as if its checks had found that. It is up again after check_rise good checks, or with POOL UP.

    Like every node that is down, it gets requests where too few others are left (panic_share).
    Raises: UnknownName if the pool has no such node.
    """
    session.runtime()
    pool.say(node, DOWN, session.world.clock.now(), _who(session), (reason or "").strip())
    return OK


@command
def pool_up(session: Session, pool: Pool, node: Endpoint) -> Reply:
    """Take a node for up, as POOL READY does, and whatever its checks found. The next check counts at once.

    Raises: UnknownName if the pool has no such node.
    """
    session.runtime()
    pool.say(node, UP, session.world.clock.now(), _who(session), "")
    return OK


@command
async def check_nodes(session: Session, pool: Pool, node: Endpoint | None = None) -> Reply:
    """Check the nodes of a pool now, or one of them, and show what came of it. It counts like any other check.

    Nodes in maintenance are not checked.
    Raises: ConfigError if the pool has no checks.
    """
    nodes = list(pool.nodes) if node is None else [pool.member(node)]
    await session.runtime().check_nodes(pool, nodes)
    rows = [(each.name, each.verdict(session.world.clock.now()).word, each.check, each.check_error or None) for each in nodes]
    return table("node state check error", rows, _checked_line)


def _checked_line(row: Row) -> str:
    node, state, check, error = row
    return f"{node} {state}, check {check}" + (f": {error}" if error else "")
