"""A request that nobody sent: `explain` asks of it what would become of it.

The exchange is a real one, made from a head that the real reader read, so everything that only looks at it works as ever: the client's
address after trust, the scheme, the plain path, the head that a node would be sent. Only its stream is not: it has no connection, and
refuses every verb. Who explains runs no hook.
"""

from pbal.http1.encoder import Fields
from pbal.http1.events import RequestHead, ResponseHead
from pbal.model.certificates import Certificates
from pbal.model.deliveries import PATIENCE, OnLost
from pbal.model.errors import AnswerRefused
from pbal.model.exchange import Exchange, Stream
from pbal.model.parking import Parked, Upgraded, Waiting
from pbal.model.secured import CLIENT_FIELDS, Secured
from pbal.model.service import Service

_NOTHING = "nothing is sent: the request is imagined"


class ImaginedTLS(Secured):
    """What would be known of a connection under TLS whose client sent no certificate and named the right host."""

    __slots__ = ()

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    @property
    def version(self) -> str:
        """See Secured."""
        return "TLSv1.3"

    @property
    def cipher(self) -> str:
        """See Secured."""
        return ""

    @property
    def resumed(self) -> bool:
        """See Secured."""
        return False

    @property
    def server_name(self) -> str:
        """See Secured."""
        return ""

    @property
    def client_certificate(self) -> bytes:
        """See Secured."""
        return b""

    def serves(self, host: bytes, rule: str) -> bool:
        """See Secured."""
        return True

    def client_fields(self) -> Fields:
        """See Secured."""
        return ((CLIENT_FIELDS[0], b"NONE"),) if self._certificates.verify else ()


class Imagined(Stream):
    """The stream of a request that nobody sent."""

    __slots__ = ("peer", "tls")

    def __init__(self, peer: bytes, tls: Secured | None) -> None:
        self.peer = peer
        self.tls = tls

    @property
    def peer_name(self) -> str:
        """See Waiting."""
        return f"{self.peer.decode('ascii', 'replace')}:0"

    @property
    def half_closed(self) -> bool:
        """See Stream."""
        return False

    @property
    def full(self) -> bool:
        """See Stream."""
        return False

    def answer(self, record: Parked, status: int, fields: Fields, body: bytes, on_lost: OnLost | None, patience: float = PATIENCE) -> bool:
        """Refused, as all verbs are."""
        raise AnswerRefused(_NOTHING)

    def begin(self, record: Parked, status: int, fields: Fields, data: bytes) -> bool:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def push(self, record: Parked, data: bytes, on_lost: OnLost | None = None, patience: float = PATIENCE) -> bool:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def finish(self, record: Parked, data: bytes) -> bool:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def upgrade(self, record: Upgraded, protocol: bytes, fields: Fields, data: bytes) -> bool:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def unsent(self, record: Parked) -> int:
        """See Waiting."""
        return 0

    def repark(self, record: Parked) -> bool:
        """See Waiting."""
        return False

    def kick(self, record: Parked) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def respond(self, exchange: Exchange, status: int, fields: Fields, body: bytes, on_lost: OnLost | None, patience: float) -> bool:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def interim(self, head: ResponseHead, block: bytes) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def start(self, exchange: Exchange, head: ResponseHead, block: bytes, more: bytes) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def write(self, data: bytes) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def end(self, exchange: Exchange, data: bytes, trailer: bytes = b"") -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def cut(self, exchange: Exchange) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def tunnel(self, exchange: Exchange, head: ResponseHead, block: bytes, protocol: bytes, data: bytes) -> bytes:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def write_eof(self) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def close(self, exchange: Exchange) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def continue_body(self) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def pause_body(self) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def resume_body(self) -> None:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def park(self, exchange: Exchange, record: Parked) -> Waiting:
        """Refused."""
        raise AnswerRefused(_NOTHING)

    def withdraw(self, exchange: Exchange, record: Parked) -> bool:
        """See Stream."""
        return False


def imagine(service: Service, head: RequestHead, peer: bytes) -> Exchange:
    """An exchange of a request that would come by the listener of `service`, from `peer`; over TLS if the service speaks that."""
    tls = None if service.certificates is None else ImaginedTLS(service.certificates)
    return Exchange(Imagined(peer, tls), service, head, service.world.clock.now())
