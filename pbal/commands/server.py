"""SERVER, VERBOSE, SHUTDOWN, CRASH, QUIT."""

import logging

from pbal.commands.session import Session
from pbal.model.errors import bad_value
from pbal.schema import perlbal
from pbal.schema.commands import OK, Reply, Text, command

log = logging.getLogger("pbal")


@command
def server_set(session: Session, server_tunable: str, value: str) -> Reply:
    """Set a tunable of the whole process. A relative path starts from the folder of the configuration file.

    What is about Perlbal's own machinery (aio_mode, aio_threads, crash_backtrace, nice_level, track_obj) is taken, and has no effect.
    Source: Perlbal manual, SERVER.
    """
    name = server_tunable.lower()
    known = session.world.server_tunables.get(name)
    if known is None and name in perlbal.MEANINGLESS:
        return _meaningless(session, perlbal.MEANINGLESS[name], value)
    session.world.process.set(server_tunable, value if known is None else known.type.place(value, session.interpreter.folder))
    if name == "compatible":
        session.world.process.place_standards(session.interpreter.folder)
    session.note("server", name)
    return OK


def _meaningless(session: Session, parameter: perlbal.Meaningless, value: str) -> Reply:
    try:
        parameter.type.parse(value)
    except ValueError as error:
        raise bad_value(parameter.name, value, error, parameter.type.choices) from None
    session.warn(parameter.message, "server_tunable")
    return OK


@command
def xs_module(session: Session, module: str) -> Reply:
    """Do nothing: in Perlbal, this switches a native parser on or off.

    Source: Perlbal manual, XS. differs: no effect.
    """
    session.warn(perlbal.XS_MESSAGE)
    return OK


@command
def verbose(session: Session, switch: bool) -> Reply:
    """Choose whether this connection prints OK after a statement.

    Source: Perlbal manual, VERBOSE.
    """
    session.verbose = switch
    return OK


@command
async def shutdown(session: Session) -> Reply:
    """End the process at once.

    Source: Perlbal manual, SHUTDOWN.
    """
    runtime = session.runtime()
    session.closing = True
    await runtime.shutdown(False, None)
    return OK


@command
async def shutdown_graceful(session: Session, seconds: float | None = None) -> Reply:
    """Stop accepting connections, answer parked polls, let requests in progress finish, and end.

    For the time of `SERVER drain_delay`, pbal first goes on as before, while `/readyz` fails. The process ends after SECONDS at the latest,
    counted from the statement; 0 is no limit. Said again, it may make the end come sooner, and never later.

    Source: Perlbal manual, SHUTDOWN GRACEFUL.
    """
    await session.runtime().shutdown(True, seconds)
    return OK


@command
async def crash(session: Session) -> Reply:
    """End the process at once, as a fault would: with exit status 1. For those who test what restarts it.

    Source: Perlbal 1.80, crash, which no manual tells of.
    """
    runtime = session.runtime()
    session.closing = True
    runtime.exit_status = 1
    log.error("%(statement)s on a console: ending with status 1", {"event": "crash", "statement": "CRASH"})
    await runtime.shutdown(False, None)
    return OK


@command
def quit_(session: Session) -> Reply:
    """Close this connection.

    Source: Perlbal manual, quit.
    """
    session.closing = True
    return Text((), end_dot=False)
