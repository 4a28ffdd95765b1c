"""Certificates anew: on RELOAD CERTIFICATES, when a file was written, and the warning before one expires.

They are read in a thread, all of them before any is put to use. Handshakes under way go on with those they began with,
connections keep what they have.
"""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pbal.model.certificates import EXPIRES_SOON, Certificates, read
from pbal.model.errors import ConfigError
from pbal.model.service import Service

if TYPE_CHECKING:
    from pbal.model.world import World

log = logging.getLogger("pbal.tls")

LOOK: Final = 5
"""Seconds between two looks at the files."""
REMIND: Final = 86400
"""Seconds between two warnings of one certificate's end."""


def secured_services(world: "World") -> list[Service]:
    """Those that have certificates in use."""
    return [service for service in world.services.values() if service.enabled and service.certificates is not None]


async def renew(services: list[Service]) -> None:
    """Read the certificates of services again and put them to use: all, or none. Raises: ConfigError."""
    read_anew: list[tuple[Service, Certificates]] = []
    loop = asyncio.get_running_loop()
    for service in services:
        values = dict(service.values)
        try:
            read_anew.append((service, await loop.run_in_executor(None, read, values)))
        except ConfigError as error:
            raise ConfigError(f"service '{service.name}': {error.message}; the certificates in use stay", about=service.name) from None
    for service, certificates in read_anew:
        service.use_certificates(certificates)


class Watch:
    """The tick's look at the certificates of a world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._looked = 0
        self._reminded: dict[str, float] = {}

    def due(self, second: int) -> bool:
        """Whether it is time to look."""
        if second - self._looked < LOOK:
            return False
        self._looked = second
        return bool(secured_services(self._world))

    async def look(self) -> None:
        """Take up what was written, warn of what ends soon, renew the gauge."""
        world = self._world
        loop = asyncio.get_running_loop()
        least: int | None = None
        for service in secured_services(world):
            certificates = service.certificates
            assert certificates is not None
            changed = await loop.run_in_executor(None, certificates.changed)
            if changed is not None:
                await self._take_up(service, changed)
            in_use, now = service.certificates or certificates, datetime.now(UTC)
            for certificate in in_use.all:
                days = certificate.days_left(now)
                least = days if least is None else min(least, days)
                if days < EXPIRES_SOON and (now - in_use.since).total_seconds() >= REMIND:  # it was said when they were read
                    self._remind(service.name, str(certificate.file), days)
        world.counters.counts["tls_certificate_days"] = least or 0

    async def _take_up(self, service: Service, changed: dict[Path, int]) -> None:
        before = service.certificates
        try:
            await renew([service])
        except ConfigError as error:
            if before is not None:
                before.seen(changed)  # said once, not with each look; the key may be written a moment after the certificate
            log.error("%(reason)s", {"event": "certificate_refused", "service": service.name, "reason": error.message})
            return
        log.info(
            "service %(service)s: certificates were written, and are in use", {"event": "certificates_renewed", "service": service.name}
        )

    def _remind(self, service: str, file: str, days: int) -> None:
        now = self._world.clock.now()
        if now - self._reminded.get(file, -REMIND) >= REMIND:
            self._reminded[file] = now
            log.warning(
                "service %(service)s: the certificate in %(file)s expires in %(days)d days",
                {"event": "certificate_expires", "service": service, "file": file, "days": days},
            )
