"""How a connection to a node comes about: connected, under TLS where the service says so, and verified where it says so.

    open() -> made() -> Opener.arrived()                    connected
                     -> verifying -> Opener.arrived()       it answered OPTIONS (verify.py)
           -> Opener.settle(), and connect_failed() for who waited

For each there is one coroutine, owned by its connection. Whatever becomes of it, the Opener hears of the end once. TLS goes on from the
node's last session where one is known; a node that does not keep connections open after OPTIONS is not asked again for a minute.
"""

import asyncio
import ssl
from abc import abstractmethod
from typing import Final, cast

from pbal.model.pool import Node
from pbal.net.backend import BackendConnection, Owner
from pbal.net.reaching import reach
from pbal.net.tasks import spawn
from pbal.net.tls import ClientLink
from pbal.roles.proxy.seeker import Seeker
from pbal.roles.proxy.terms import Terms
from pbal.roles.proxy.verify import NotKept, Verification

UNASKED: Final = 60.0
"""Seconds for which a node that does not keep connections open is not asked to verify one; Perlbal's."""


class Opener(Owner):
    """Who has connections opened."""

    @abstractmethod
    def arrived(self, backend: BackendConnection) -> None:
        """A connection is there, and verified where that is asked for."""

    @abstractmethod
    def settle(self, backend: BackendConnection) -> Seeker | None:
        """A connection is being opened no longer, whatever became of it. Who waited for it; it lacks one now."""

    @abstractmethod
    def failed(self, seeker: Seeker, node: Node, status: int) -> None:
        """Who waited for a connection to `node` gets none: `status` 502 (refused) or 504 (too slow)."""


class Dialer:
    """See above."""

    __slots__ = ("_group", "_sessions", "_terms", "_verifying", "unasked")

    def __init__(self, group: Opener, terms: Terms) -> None:
        self._group = group
        self._terms = terms
        self.unasked: dict[Node, float] = {}
        """Nodes whose connections are not verified, and until when (clock time)."""
        self._verifying: dict[BackendConnection, Verification] = {}
        self._sessions: dict[Node, ssl.SSLSession] = {}

    def open(self, backend: BackendConnection) -> None:
        """Begin."""
        spawn(backend, self._connect(backend), f"connect {self._terms.name} {backend.node.name}")

    def made(self, backend: BackendConnection, opening: bool) -> None:
        """It is connected; `opening`: and not given up meanwhile."""
        terms, node = self._terms, backend.node
        now = terms.clock.now()
        node.reached(now)
        if terms.verify and opening and self.unasked.get(node, 0.0) <= now:
            self._verifying[backend] = Verification(backend, terms)
        else:
            self._group.arrived(backend)

    def used(self, backend: BackendConnection) -> None:
        """Its first response has ended: remember its TLS session, which tickets make complete only after the handshake."""
        if self._terms.tls is not None and backend.tls is self._terms.tls and backend.transport is not None:
            session = backend.transport.get_extra_info("session")
            if session is not None:
                self._sessions[backend.node] = session

    def forget(self, node: Node) -> None:
        """The node is gone."""
        self._sessions.pop(node, None)
        self.unasked.pop(node, None)

    def forget_sessions(self) -> None:
        """Other certificates may hold now."""
        self._sessions.clear()

    def tick(self, now: float) -> None:
        """Once a second."""
        for node in [node for node, until in self.unasked.items() if until <= now]:
            del self.unasked[node]

    async def _connect(self, backend: BackendConnection) -> None:
        """Open a connection, have it verified, and offer it."""
        node, terms = backend.node, self._terms
        service = terms.service
        values = service.values
        failed = 0
        try:
            async with asyncio.timeout(values["connect_timeout"]):
                await self._dial(backend)
            verification = self._verifying.get(backend)
            if verification is not None:
                async with asyncio.timeout(values["verify_timeout"]):
                    await verification.ready
                if backend.closing:
                    raise ConnectionError("it answered OPTIONS, and closed the connection")
                backend.verified = True
                node.verifies += 1
                self._group.arrived(backend)
        except NotKept:
            self._not_kept(backend)
        except (OSError, TimeoutError) as error:
            terms.counts["backend_connect_failures"] += 1
            failed = 504 if isinstance(error, TimeoutError) else 502
            node.unreachable(terms.clock.now(), self._why(error, backend))
            service.world.log_limited(
                f"connect {node.name}",
                "cannot connect to %(node)s: %(reason)s",
                {"event": "connect_failed", "service": terms.name, "node": node.name, "reason": error.strerror or str(error) or "too slow"},
            )
        finally:
            verification = self._verifying.pop(backend, None)
            if verification is not None:
                verification.forget()
            seeker = self._group.settle(backend)
        if failed and seeker is not None:
            self._group.failed(seeker, node, failed)

    async def _dial(self, backend: BackendConnection) -> None:
        """Connect, TLS included. Raises: OSError."""
        node, terms = backend.node, self._terms
        endpoint = node.endpoint
        link = None if terms.tls is None else self._link(backend, terms.tls, "localhost" if endpoint.path else endpoint.host)
        made = False
        try:
            protocol = cast(asyncio.Protocol, link or backend)  # not by base class: compiled classes have no foreign bases
            await reach(terms.service.world.names, terms.clock.now(), node, protocol, terms.service.values["connect_timeout"])
            if link is not None:
                await link.ready
            made = True
        finally:
            if link is not None and not made:  # also where the service was closed meanwhile
                link.abort()

    def _link(self, backend: BackendConnection, context: ssl.SSLContext, host: str) -> ClientLink:
        """TLS to a node. It goes on from the node's last session where that is known."""
        name = self._terms.service.values["ssl_backend_name"] or host
        return ClientLink(backend, context, name, self._sessions.get(backend.node), backend.said)

    def _not_kept(self, backend: BackendConnection) -> None:
        """A node answered OPTIONS, and does not keep connections open: its next ones are used as they come."""
        node, terms = backend.node, self._terms
        self.unasked[node] = terms.clock.now() + UNASKED
        terms.service.world.log_limited(
            f"noverify {node.name}",
            "%(node)s: does not keep a connection open after OPTIONS: its connections are not verified for a minute",
            {"event": "not_verified", "service": terms.name, "node": node.name},
        )

    def _why(self, error: OSError | TimeoutError, backend: BackendConnection) -> str:
        """Words for a connection that could not be made."""
        values = self._terms.service.values
        if isinstance(error, ConnectionRefusedError):
            return "connection refused"
        if backend in self._verifying:
            if isinstance(error, TimeoutError):
                return f"no answer to OPTIONS within {values['verify_timeout']:g} s"
            return str(error)
        if isinstance(error, TimeoutError) and not error.errno:
            return f"no connection within {values['connect_timeout']:g} s"
        return f"cannot connect: {error.strerror or error}"
