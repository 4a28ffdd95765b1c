"""xffextras: the name under which Perlbal has X-Forwarded-Port and X-Forwarded-Proto. Here the two tunables are every reverse_proxy's.

    LOAD xffextras
    CREATE POOL app
      POOL app ADD 127.0.0.1:8000
    CREATE SERVICE site
      SET role               = reverse_proxy
      SET pool               = app
      SET plugins            = xffextras
      SET send_backend_port  = on
      SET send_backend_proto = on

The plugin has no hooks: a configuration that loads it works as it stands. pbal.conf(5) has the tunables.

Source: Perlbal's XFFExtras. differs: what a trusted proxy said in X-Forwarded-Port and X-Forwarded-Proto goes on to the node, and is not
written over with what is true of the connection between the two; send_backend_proto is `auto` where nothing is said: it tells of TLS.
"""

from pbal.api import Plugin


class XFFExtras(Plugin):
    """A name, and no more."""

    roles = frozenset({"reverse_proxy"})
