"""What a console is told about itself: that people read it, on a terminal."""

from pbal import __version__, build
from pbal.commands.session import Session
from pbal.schema.commands import OK, CommandError, Reply, Text, command

NARROWEST, WIDEST = 20, 1000


@command
def terminal(session: Session, width: str | None = None) -> Reply:
    """Say that people read this connection, on a terminal of WIDTH columns (80 if you leave it out), or no longer: `off`.

    Lists then have a header and aligned columns, times are people's, and an error shows the line with what is wrong underlined. Every
    answer ends with a line that holds a single dot, except OK. Without TERMINAL a console writes for scripts, as Perlbal's does.
    """
    if width is not None and width.lower() == "off":
        session.view_width = 0
        return OK
    text = width or "80"
    if not (text.isascii() and text.isdigit() and len(text) < 5 and NARROWEST <= int(text) <= WIDEST):
        raise CommandError(f"expected off, or a number of columns from {NARROWEST} to {WIDEST}, found '{text}'", "width")
    session.view_width = int(text)
    return Text([f"pbal {__version__} ({build.kind()}); help lists the statements"])
