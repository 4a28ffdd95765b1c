"""queues: tells nodes how many requests wait for a connection to one, and how long the first of them has waited.

    LOAD queues
    CREATE POOL app
      POOL app ADD 127.0.0.1:8000
    CREATE SERVICE site
      SET role    = reverse_proxy
      SET pool    = app
      SET plugins = queues

Every request that is sent to a node has X-Queue-Count and X-Queue-Age, of the normal class, and X-HP-Queue-Count and X-HP-Queue-Age, of
the one that is served first. Ages are in whole seconds, 0 where nobody waits. They are as of the moment at which the request
is sent, and do not count the request itself. What a client says in these fields does not reach a node.

An application may use them to do less where many wait: to leave out what is dear, or to say 503 to robots.

Source: Perlbal's Queues. differs: clients that have left are not counted.
"""

from typing import Final

from pbal.api import Exchange, Plugin, hook

_FIELDS: Final = (("normal", b"X-Queue-Count", b"X-Queue-Age"), ("highpri", b"X-HP-Queue-Count", b"X-HP-Queue-Age"))


class Queues(Plugin):
    """Of one service."""

    roles = frozenset({"reverse_proxy"})

    @hook.backend_client_assigned
    def tell(self, exchange: Exchange) -> None:
        waiting = self.service.queues()
        for name, count_field, age_field in _FIELDS:
            count, age = waiting[name]
            exchange.set_field(count_field, b"%d" % count)
            exchange.set_field(age_field, b"%d" % age)
