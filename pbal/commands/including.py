"""INCLUDE: a configuration file of several files."""

from pbal.commands.session import Session
from pbal.schema.commands import OK, CommandError, Reply, command
from pbal.schema.kinds import Kind


@command
def include(session: Session, files: str) -> Reply:
    """Read other configuration files here: names and patterns (`*`, `?`, `[a-z]`, `**`) that begin at the folder of this file.

    The files of a pattern are read in the order of their names; a pattern may match none. Each file has a current object of its own. A file
    that is missing, or that includes itself, is an error. Only in a configuration file.
    Source: Perlbal manual, Include. differs: a mistake in an included file is one of the whole.
    """
    if session.reading is None:
        hint = "RELOAD CONFIG reads the configuration anew, with what it includes"
        raise CommandError("INCLUDE is for configuration files, and is read with them", "files", hint, kind=Kind.CONFLICT)
    session.reading.include(files)
    return OK
