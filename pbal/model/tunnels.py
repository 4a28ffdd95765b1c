"""Connections that were upgraded (101) and pass through: what an operator may know of each, and how it is ended from the console.

A Tunnel is made with the 101 and lives until its exchange ends, whoever ends it: the client, the node, tunnel_timeout, TUNNEL KICK, or
pbal, which lets tunnels be until graceful_timeout is over. Who relays it keeps `heard` up to date.
"""

from collections.abc import Callable

from pbal.model.exchange import Exchange


class Tunnel:
    """One of them. Times are clock times."""

    __slots__ = ("exchange", "heard", "kick", "node", "number", "protocol", "since")

    def __init__(self, number: int, exchange: Exchange, node: str, protocol: bytes, now: float, kick: Callable[[], None]) -> None:
        self.number = number
        """No other thing that the console lists has it."""
        self.exchange = exchange
        """Its octets both ways are counted there."""
        self.node = node
        self.protocol = protocol
        self.since = now
        self.heard = now
        """When the last octets came, from either side."""
        self.kick = kick
        """End it now, on both sides."""
