"""What web servers keep of the files that they send."""

from collections.abc import Iterator

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.model.service import Service
from pbal.observe.access import quoted_text
from pbal.roles.web.role import WebServer
from pbal.schema.commands import Reply, command
from pbal.schema.people import Unit


@command
def show_files(session: Session, service: Service | None = None) -> Reply:
    """Show the files that web servers keep, to have them at once: their size, whether they are in memory or open, how many clients are
    being sent each, and when pbal looks at it again (in seconds; 0 means with the next request). Before a path are the codings that the
    client takes, where `precompressed` is set. See SERVER file_cache_files.
    """
    asked = sorted(session.world.services.values(), key=lambda each: each.name) if service is None else [service]
    return table("service path bytes where sent_to next", _rows(session, asked), _line, units={"next": Unit.SECONDS})


def _rows(session: Session, services: list[Service]) -> Iterator[Row]:
    now = session.world.clock.now()
    for service in services:
        if isinstance(service.handler, WebServer):
            for kept in sorted(service.handler.cache.all(), key=lambda each: each.key):
                file = kept.file
                where, left = "memory" if file.in_memory else "open", max(0.0, round(kept.fresh_until - now, 1))
                yield service.name, quoted_text(kept.key.strip()).decode("ascii"), file.size, where, file.holders - 1, left


def _line(row: Row) -> str:
    service, path, size, where, sent_to, left = row
    return f"{service} {path} {size} bytes, {where}, sent to {sent_to}, looked at in {left:g}s"
