"""SHOW TUNNELS, TUNNEL KICK."""

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.model.tunnels import Tunnel
from pbal.schema.commands import OK, CommandError, Reply, command
from pbal.schema.people import Unit


@command
def show_tunnels(session: Session) -> Reply:
    """List the upgraded connections (WebSocket) that pass through to nodes, the oldest first.

    Each has its number, service, client, node and protocol, its age and how long it has been silent (seconds), the bytes from the client
    and those to it, and the path. See tunnel_timeout.
    """
    now = session.world.clock.now()
    rows = (_row(tunnel, now) for tunnel in list(session.world.tunnels.values()))
    columns = "tunnel service client node protocol age idle received sent path"
    units = {"age": Unit.SECONDS, "idle": Unit.SECONDS, "received": Unit.OCTETS, "sent": Unit.OCTETS}
    return table(columns, rows, _line, units=units)


def _row(tunnel: Tunnel, now: float) -> Row:
    exchange = tunnel.exchange
    told = [text.decode("latin-1") for text in (exchange.client_address, tunnel.protocol, exchange.request.path)]
    return (
        tunnel.number, exchange.service.name, told[0], tunnel.node, told[1], int(now - tunnel.since), int(now - tunnel.heard),
        exchange.received, exchange.sent, told[2],
    )  # fmt: skip


def _line(row: Row) -> str:
    number, service, client, node, protocol, age, idle, received, sent, path = row
    return f"{number} {service} {client} {node} {protocol} {age}s idle {idle}s received {received} sent {sent} {path}"


@command
def tunnel_kick(session: Session, number: str) -> Reply:
    """Close an upgraded connection, on both sides. SHOW TUNNELS has its number.

    Raises: CommandError if there is no such tunnel.
    """
    tunnel = session.world.tunnels.get(int(number))
    if tunnel is None:
        raise CommandError(f"there is no tunnel {number}", "number", "SHOW TUNNELS lists them")
    tunnel.kick()
    return OK
