"""include: the name under which Perlbal has INCLUDE, a statement of every configuration file here (pbal.conf(5)).

    LOAD include
    INCLUDE = sites/*.conf

The plugin has no hooks: a configuration that loads it, or has it among the plugins of a service, works as it stands.

Source: Perlbal's Include. differs: INCLUDE works without a LOAD; a mistake in an included file is one of the whole, and so is a file that
is missing or includes itself; on a console it is refused: RELOAD CONFIG reads the files anew.
"""

from pbal.api import Plugin


class Include(Plugin):
    """A name, and no more."""
