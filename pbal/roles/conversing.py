"""A role that a plugin brings (model/conversation.py): every connection is a conversation of the plugin's class, as it is now."""

from pbal.http1.reader import Limits
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.handling import RoleHandler
from pbal.model.service import Service
from pbal.net.conversing import Conversing


class ConversingRole(RoleHandler):
    """The handler of one service of such a role."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.limits = Limits()

    def protocol(self) -> Conversing:
        """The protocol of a connection to this service's listener."""
        plugin, own = self.service.world.own_role(self.service.role)
        return Conversing(self.service, plugin, own.conversation)

    def begin(self, exchange: Exchange) -> None:
        """See RoleHandler. Only a selector could hand one on."""
        raise ConfigError(f"service '{self.service.name}' (role {self.service.role}) answers no requests")

    def changed(self, tunable: str) -> None:
        """See RoleHandler. Conversations ask for what they need."""

    def tick(self, now: float) -> None:
        """See RoleHandler."""

    def close(self) -> None:
        """See RoleHandler. Its listener is the server's."""
