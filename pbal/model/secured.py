"""What TLS knows of a connection, for hooks, header rules and the host check. One small object a connection."""

import base64
import ssl
from typing import TYPE_CHECKING

from pbal.model.certificates import Certificates, host_name

if TYPE_CHECKING:
    from pbal.http1.encoder import Fields

CLIENT_FIELDS = (b"X-SSL-Client-Verify", b"X-SSL-Client-Subject", b"X-SSL-Client-Issuer", b"X-SSL-Client-Serial", b"Client-Cert")
"""What a backend learns of a client's certificate. The last is RFC 9440's: the certificate itself."""


class Secured:
    """A connection under TLS."""

    __slots__ = ("_certificates", "_connection", "_fields")

    def __init__(self, connection: ssl.SSLObject, certificates: Certificates) -> None:
        self._connection = connection
        self._certificates = certificates
        self._fields: tuple[tuple[bytes, bytes], ...] | None = None

    @property
    def version(self) -> str:
        """The protocol: TLSv1.2 or TLSv1.3."""
        return self._connection.version() or ""

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the cipher."""
        cipher = self._connection.cipher()
        return cipher[0] if cipher else ""

    @property
    def resumed(self) -> bool:
        """Whether the handshake went on from an earlier one."""
        return bool(self._connection.session_reused)

    @property
    def server_name(self) -> str:
        """The host that the client named (RFC 6066 section 3), "" where it named none."""
        return str(getattr(self._connection, "server_name", ""))

    @property
    def client_certificate(self) -> bytes:
        """The client's certificate in DER, verified; b"" where it sent none."""
        return self._connection.getpeercert(True) or b""

    def serves(self, host: bytes, rule: str) -> bool:
        """Whether a request for `host` belongs here, by the rule of ssl_host_check (RFC 9110 section 7.4)."""
        name = host_name(host.decode("latin-1"))
        certificates = self._certificates
        group = certificates.covering(name)
        used = self._connection.context
        if rule == "certificate":
            return group is not None and group.context is used
        if not self.server_name or rule == "off":
            return True
        return (group.context if group is not None else certificates.context) is used

    def client_fields(self) -> "Fields":
        """What a backend is told of the client's certificate; nothing where clients are not asked for one."""
        if self._fields is None:
            self._fields = self._told() if self._certificates.verify else ()
        return self._fields

    def _told(self) -> tuple[tuple[bytes, bytes], ...]:
        from cryptography import x509

        der = self.client_certificate
        if not der:
            return ((CLIENT_FIELDS[0], b"NONE"),)
        whole = f":{base64.b64encode(der).decode()}:"
        try:
            certificate = x509.load_der_x509_certificate(der)
            names = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string(), f"{certificate.serial_number:x}"
        except ValueError:  # OpenSSL verified what is odd in a name: the node may make of it what it can
            return ((CLIENT_FIELDS[0], b"SUCCESS"), (CLIENT_FIELDS[4], whole.encode()))
        said = ("SUCCESS", *names, whole)
        return tuple((name, _printable(value)) for name, value in zip(CLIENT_FIELDS, said, strict=True))


def _printable(text: str) -> bytes:
    """As the value of a field: control characters of a name in a certificate are none."""
    return bytes(octet if 0x20 <= octet != 0x7F else 0x3F for octet in text.encode("utf-8", "replace"))
