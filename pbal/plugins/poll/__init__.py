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

The tour: settings.py (tunables, counters) -> names.py (which queues a request means) ->
auth.py, with grants.py and tokens.py (who may), limits.py (how much one may) -> plugin.py (hooks, answers, the
ways in and out) -> lot.py (who is parked) -> memory.py or store.py (where messages are) -> courier.py (from memcached
to the lot) -> watch.py (memcached that pushes) -> framing.py, formats.py (messages in a value, in an answer) -> commands.py.
"""

from .plugin import Poll

__all__ = ["Poll"]
