"""MIME SET and MIME REMOVE: media types by the endings of file names."""

from pbal.commands.session import Session
from pbal.schema.commands import CommandError, Reply, Text, bad_argument, command
from pbal.schema.kinds import Kind
from pbal.schema.media import ending_of
from pbal.schema.media import media_type as media_type_of


@command
def mime_set(session: Session, ending: str, media_type: str) -> Reply:
    """Say which media type files have whose names end so: all that a web_server sends, and those that X-REPROXY-FILE names.

    It may have parameters: `MIME SET txt text/plain; charset=iso-8859-1`. Text without a charset is said to be UTF-8.
    Source: Perlbal manual, MIME SET. differs: parameters; the type keeps its case; dumpconfig prints it.
    """
    try:
        known = ending_of(ending)
    except ValueError as error:
        raise bad_argument("ending", error) from None
    try:
        kind = media_type_of(media_type)
    except ValueError as error:
        raise bad_argument("media_type", error) from None
    session.world.media.set(known, kind)
    return Text((f"{known} set to {kind}.",), end_dot=False, instead=True)


@command
def mime_remove(session: Session, ending: str) -> Reply:
    """Forget the media type of an ending: such files are application/octet-stream from now on.

    Source: Perlbal manual, MIME REMOVE. differs: not text/plain; dumpconfig prints it.
    """
    try:
        known = ending_of(ending)
    except ValueError as error:
        raise bad_argument("ending", error) from None
    media = session.world.media
    if media.get(known) is None:
        message = f"{known} not a defined extension."
        raise CommandError(message, "ending", kind=Kind.UNKNOWN_NAME, subject=known, candidates=list(media.all()))
    media.set(known, "")
    return Text((f"{known} removed.",), end_dot=False, instead=True)
