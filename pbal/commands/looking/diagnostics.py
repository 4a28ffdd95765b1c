"""What Perlbal's console had for its own developers. Scripts may ask it: each has Perlbal's shape, and says what is true of pbal."""

from collections.abc import Iterator

from pbal.commands.looking.tables import opening, table
from pbal.commands.session import Session
from pbal.schema.commands import CommandError, Facts, Reply, command

_NO_XS = (
    "XS module status:", "", "   No modules available.", "",
    "To enable a module: xs enable <module>", "To disable a module: xs disable <module>",
)  # fmt: skip


@command
def aio(session: Session) -> Reply:
    """List the channels of disk threads. pbal has no channels, and the list is empty.

    Source: Perlbal manual, aio.
    """
    return table("channel key value", ())


@command
def mime(session: Session) -> Reply:
    """List the endings of file names that are known, each with its media type. MIME SET and MIME REMOVE change them.

    Source: Perlbal manual, mime list.
    """
    return table("ending type", sorted(session.world.media.all().items()))


@command
def xs(session: Session) -> Reply:
    """Show which parts of Perlbal are written in C. pbal has no such modules; `show version` tells whether its hot path is compiled.

    Source: Perlbal manual, xs.
    """
    return Facts({"modules": []}, _NO_XS)


@command
def obj(session: Session) -> Reply:
    """List how many objects of each class there are. pbal counts none: `states` has the connections.

    Source: Perlbal manual, obj. There, too, it is empty unless the environment asked for it at start.
    """
    return table("class count total", (), lambda row: f"{row[0]} = {row[1]} (tot={row[2]})")


@command
def track(session: Session) -> Reply:
    """List where objects were made. pbal does not track that, and the list is empty.

    Source: Perlbal manual, track.
    """
    return table("place count", ())


@command
def gladiator(session: Session) -> Reply:
    """List the objects that Perl's memory holds. pbal has none, and the list is empty.

    Source: Perlbal manual, gladiator.
    """
    return table("object size", ())


@command
def leaks(session: Session) -> Reply:
    """Perlbal looks for lost objects here, in its debug mode only. pbal refuses: it has no such mode.

    Source: Perlbal manual, leaks.
    """
    raise CommandError("command disabled: pbal has no debug mode")


@command
def varsize(session: Session) -> Reply:
    """Show how many entries the lists inside pbal have: connections, waiting clients, bored and opening backends of each service.

    Source: Perlbal manual, varsize.
    """
    return table("variable kind entries", list(_sizes(session)))


def _sizes(session: Session) -> Iterator[tuple[str, str, int]]:
    world = session.world
    yield "clients", "{}", len(world.clients)
    yield "backends", "{}", len(world.backends)
    for service in world.services.values():
        handler = service.handler
        if service.role == "reverse_proxy" and handler is not None:
            yield f"svc-{service.name}-bored_backends", "[]", handler.load()[2]
            yield f"svc-{service.name}-pending_connects", "{}", sum(name == service.name for name, _ in opening(session))
            yield f"svc-{service.name}-waiting_clients", "[]", handler.load()[0]
