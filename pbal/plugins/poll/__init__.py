"""poll: hold long polls, and answer each the moment its queue holds a message.

    LOAD poll
    CREATE SERVICE chat
      SET role             = reverse_proxy
      SET listen           = 127.0.0.1:8080
      SET pool             = app
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[\\w.-]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[\\w.-]+)$
      SET poll_store       = memcached 10.0.0.1:11211
    ENABLE chat

The tour. A request: plugin.py (hooks) -> settings.py (tunables, counters), names.py (which queues it means), positions.py (from
where it reads) -> auth.py, with grants.py and tokens.py (who may), limits.py (how much one may) -> one of the transports,
longpoll.py, events.py and sockets.py, or publisher.py. Who waits: lot.py (the records) and hub.py (who gets
what, when) with turns.py (many of them, some a turn of the loop). Where messages lie: store.py (what the hub asks of a store) ->
memory.py, or cached.py with courier.py, memcached.py and watch.py (memcached that pushes). How they look: framing.py (in a value),
delivery.py and formats.py (in an answer). Over a reload: handover.py. For the operator: commands.py.
"""

from .plugin import Poll

__all__ = ["Poll"]
