"""Queries about nodes that are known by name, and about pools whose nodes are in files."""

from math import inf

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.model.resolving import Name
from pbal.schema.commands import Reply, command
from pbal.schema.people import Unit


@command
def show_names(session: Session) -> Reply:
    """Show the names of nodes: their addresses, the age of that answer and the time until the next lookup (in seconds), and why the
    last one failed. See resolve_interval. While lookups fail, the last good answer stays in use.
    """
    now = session.world.clock.now()
    rows = (_row(name, now) for name in sorted(session.world.names.known.values(), key=lambda each: each.host))
    return table("name addresses age next failures why", rows, _line, units=dict.fromkeys(("age", "next"), Unit.SECONDS))


def _row(name: Name, now: float) -> Row:
    age = round(now - name.good_at, 1) if name.good_at else None
    due = None if name.due == inf else 0.0 if name.looking is not None else max(0.0, round(name.due - now, 1))
    return name.host, name.addresses, age, due, name.failures, name.failed or None


def _line(row: Row) -> str:
    host, addresses, age, due, failures, why = row
    found = f"{' '.join(addresses)} since {age:g}s" if addresses else "unknown"
    return f"{host} {found}, next lookup " + ("never" if due is None else f"in {due:g}s") + (f", {failures} failures: {why}" if why else "")
