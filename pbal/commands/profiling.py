"""PROF: where pbal's time goes, by function. It is cProfile; while it measures, everything takes about twice as long."""

from cProfile import Profile
from types import CodeType

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.schema.commands import OK, CommandError, Reply, command

MOST = 100
"""Functions listed: those that took most."""


@command
def prof(session: Session, switch: bool) -> Reply:
    """Start or stop measuring where the time goes, by function. It slows pbal down while it runs.

    PROF DATA lists what was measured last.

    Source: Perlbal manual, prof.
    """
    session.runtime()
    interpreter = session.interpreter
    if not switch:
        if interpreter.profile is not None:
            interpreter.profile.disable()
        return OK
    if interpreter.profile is not None:
        interpreter.profile.disable()
    profile = Profile()
    try:
        profile.enable()
    except ValueError as error:
        raise CommandError(f"cannot measure: {error}") from None
    interpreter.profile = profile
    return OK


@command
def prof_data(session: Session) -> Reply:
    """List the functions that took most time: function, seconds in it, 0, calls, seconds a call, 0.

    Source: Perlbal manual, prof data. differs: the time is elapsed time, of which the system's part is not told apart.
    """
    profile = session.interpreter.profile
    entries = [] if profile is None else profile.getstats()
    rows = [(_name(entry.code), round(entry.inlinetime, 6), entry.callcount) for entry in entries]
    rows = sorted(rows, key=lambda row: -row[1])[:MOST]
    return table("function seconds calls per_call", [(*row, round(row[1] / row[2], 9)) for row in rows], _line)


def _line(row: Row) -> str:
    function, seconds, calls, each = row
    return f"{function} {seconds:.6f} 0 {calls} {each:.6f} 0"


def _name(code: str | CodeType) -> str:
    if isinstance(code, str):
        return code.replace(" ", "_")
    place = "/".join(code.co_filename.split("/")[-2:])
    return f"{place}:{code.co_firstlineno}:{code.co_qualname}".replace(" ", "_")
