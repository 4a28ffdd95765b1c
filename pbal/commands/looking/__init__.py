"""Everything that only looks. Rows carry the same as the lines, as named columns."""

from pbal.commands.looking import nodes, process, services, sockets  # noqa: F401 - handlers register themselves
