"""Everything that only looks. Lines for scripts, JSON and tables for people come from one place: see schema/commands.py."""

from pbal.commands.looking import diagnostics, files, names, nodes, process, reproxying, services, sockets  # noqa: F401 - handlers register
