"""LOGIN: said to a console that asks for a password. The console itself takes it, before anything of it could reach a log."""

from pbal.commands.session import Session
from pbal.schema.commands import CommandError, Reply, command


@command
def login(session: Session, user: str, password: str) -> Reply:
    """Say who you are, to a console with a password_file.

    The password is taken as it stands, up to the end of the line: quotes, `$` and `#` are part of it. It is in no log.
    """
    raise CommandError("LOGIN is for the console", "user")
