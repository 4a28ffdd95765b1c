"""Configurations that several tests start from: pieces to be put together, `{node}` being the address of a node."""

POLLS = """
    LOAD poll
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role             = reverse_proxy
      SET listen           = 127.0.0.1:0
      SET pool             = app
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
"""
"""A proxy that parks polls. What follows is said of it, until ENABLE site."""

FRONT = """
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET default_service = site
    ENABLE front
"""
"""A selector in front of it."""

CONSOLE = """
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
"""
