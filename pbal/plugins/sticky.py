"""sticky: clients of a service stay with the node that answered them first. The pool's own tunable `sticky` does it (pbal.conf(5)).

    LOAD sticky
    CREATE POOL app
      SET sticky = node
      POOL app ADD 127.0.0.1:8000
      POOL app ADD 127.0.0.1:8001
    CREATE SERVICE site
      SET role    = reverse_proxy
      SET pool    = app
      SET plugins = sticky

The plugin has no hooks. It sees to it that the service has what its operator relies on: while no pool that the service uses has `sticky`
set, ENABLE is refused, and so is SET plugins of a service that runs.
"""

from pbal.api import ConfigError, Kind, Plugin


class Sticky(Plugin):
    """The wish of one service."""

    roles = frozenset({"reverse_proxy"})

    def check(self) -> None:
        pools = [self.world.pool(name) for name in sorted(self.service.pools())]
        if not any(pool.values["sticky"] for pool in pools):
            said = f"SET {pools[0].name}.sticky = NAME" if pools else "SET pool, and SET sticky = NAME of it"
            message = f"service '{self.service.name}' has the plugin sticky, and no pool of it binds clients to nodes: {said}"
            raise ConfigError(message, about="plugins", kind=Kind.NEEDS_OTHER_FIRST)
