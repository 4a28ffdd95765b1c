"""management: the role whose connections are consoles."""

import asyncio
import logging
from typing import Any

from pbal.commands.interpreter import Interpreter
from pbal.console.connection import ConsoleConnection
from pbal.console.gate import Gate
from pbal.console.history import History
from pbal.http1.reader import Limits
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.handling import RoleHandler
from pbal.model.service import Service
from pbal.schema.management import risks

log = logging.getLogger("pbal.console")


class ManagementRole(RoleHandler):
    """The handler of one management service."""

    def __init__(self, service: Service, interpreter: Interpreter) -> None:
        self._service = service
        self.limits = Limits()
        self._interpreter = interpreter
        self._gate = Gate(service)
        self._history = History(service.world)
        self._warn()

    def protocol(self) -> asyncio.Protocol:
        """The protocol of a connection to this service's listener."""
        return ConsoleConnection(self._service, self._interpreter, self._gate, self._history)

    def begin(self, exchange: Exchange) -> None:
        """A selector cannot hand requests to a console. Raises: ConfigError, always."""
        raise ConfigError(f"service '{self._service.name}' is a console and answers no requests")

    def changed(self, tunable: Any) -> None:
        """A tunable was set."""
        if tunable in ("listen", "password_file", "open", "enable_ssl", "readonly"):
            self._warn()

    def _warn(self) -> None:
        for risk in risks(self._service.values):
            log.warning("console %(service)s %(risk)s", {"event": "console_exposed", "service": self._service.name, "risk": risk})

    def tick(self, now: float) -> None:
        """Consoles have no time; the charts have."""
        self._history.tick(now)

    def close(self) -> None:
        """Connections are closed with the server."""
