"""SERVER, VERBOSE, SHUTDOWN, HELP, QUIT."""

from pbal.commands.session import Session
from pbal.lang.mistakes import did_you_mean
from pbal.schema.commands import OK, CommandError, Reply, Text, command


@command
def server_set(session: Session, server_tunable: str, value: str) -> Reply:
    """Set a tunable of the whole process. A relative path starts from the folder of the configuration file.

    Source: Perlbal manual, SERVER.
    """
    known = session.world.server_tunables.get(server_tunable.lower())
    session.world.set_server(server_tunable, value if known is None else known.type.placed(value, session.interpreter.folder))
    session.note("server", server_tunable.lower())
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
    counted from the statement; 0 is no limit.

    Source: Perlbal manual, SHUTDOWN GRACEFUL.
    """
    await session.runtime().shutdown(True, seconds)
    return OK


@command
def help_(session: Session, words: str | None = None) -> Reply:
    """List the statements, or explain those that begin with the given words."""
    interpreter = session.interpreter
    language, registry = interpreter.language, interpreter.registry
    rules = registry.help_topics()
    if not words:
        lines = [f"{language.syntax(rule)}" for rule in rules]
        return Text([*sorted(lines), "", "help WORDS explains, e.g. help pool add"])
    wanted = words.lower().replace("_", " ").split()
    found = [rule for rule in rules if _matches(language.syntax(rule), rule, wanted)]
    if not found:
        hint = did_you_mean(words.lower(), [rule.replace("_", " ") for rule in rules])
        raise CommandError(f"no statement is called '{words}'", "words", hint)
    lines = []
    for rule in found:
        lines += [language.syntax(rule), *(f"  {line}".rstrip() for line in registry.help_for(rule)[1].splitlines()), ""]
    return Text(lines[:-1])


def _matches(syntax: str, rule: str, wanted: list[str]) -> bool:
    names = rule.split("_")
    said = [word.lower() for word in syntax.split() if word.isalpha() and word.isupper()]
    return names[: len(wanted)] == wanted or said[: len(wanted)] == wanted


@command
def quit_(session: Session) -> Reply:
    """Close this connection.

    Source: Perlbal manual, quit.
    """
    session.closing = True
    return Text((), end_dot=False)
