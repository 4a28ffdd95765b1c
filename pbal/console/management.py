"""management: the role whose connections are consoles."""

import asyncio
from typing import Any

from pbal.commands.interpreter import Interpreter
from pbal.console.connection import ConsoleConnection
from pbal.http1.reader import Limits
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.service import RoleHandler, Service


class ManagementRole(RoleHandler):
    """The handler of one management service."""

    def __init__(self, service: Service, interpreter: Interpreter) -> None:
        self._service = service
        self.limits = Limits()
        self._interpreter = interpreter

    def protocol(self) -> asyncio.Protocol:
        """The protocol of a connection to this service's listener."""
        return ConsoleConnection(self._service, self._interpreter)

    def begin(self, exchange: Exchange) -> None:
        """A selector cannot hand requests to a console. Raises: ConfigError, always."""
        raise ConfigError(f"service '{self._service.name}' is a console and answers no requests")

    def changed(self, tunable: Any) -> None:
        """Nothing here depends on tunables."""

    def tick(self, now: float) -> None:
        """Consoles have no time."""

    def close(self) -> None:
        """Connections are closed with the server."""
