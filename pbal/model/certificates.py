"""Certificates of a service: read, checked, and put where a ClientHello's name finds them.

All `ssl_*` tunables are looked at together, by `read`: what it returns is whole and good, or it raises and nothing has changed. So
ENABLE, `pbal check` and RELOAD CERTIFICATES say the same, and a certificate that is expired, broken or belongs to another
key never replaces one that serves. What is odd but works is in `warnings`.

Files are parsed with `cryptography`: Python's ssl module loads a certificate and tells nothing about it. OpenSSL itself still loads
them, and has the last word.
"""

import ipaddress
import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pbal.model.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate as X509
    from cryptography.x509 import Name

EXPIRES_SOON: Final = 14
"""Days before its end from which on a certificate is warned of."""

_WEAK: Final = ("NULL", "RC4", "DES", "MD5", "EXP", "ADH", "AECDH", "PSK", "SRP", "SEED", "IDEA")
"""Parts of the names of ciphers that are broken, anonymous, or need keys that pbal has no place for."""

PROTOCOLS: Final = ["http/1.1", "http/1.0"]
"""What is agreed on by ALPN (RFC 7301)."""


@dataclass(slots=True)
class Certificate:
    """One certificate with its key, as an operator sees it."""

    file: Path
    key_file: Path
    subject: str
    issuer: str
    names: tuple[str, ...]
    """What it is for: DNS names in lower case, a wildcard as `*.example.com`, and addresses."""
    begins: datetime
    ends: datetime
    kind: str
    """The algorithm of the key: RSA, EC ..."""

    def days_left(self, now: datetime) -> int:
        """Whole days until its end; below 0 after it."""
        return (self.ends - now).days


@dataclass(slots=True)
class Group:
    """Certificates for the same names with keys of different kinds, from which a handshake takes what its client knows."""

    context: ssl.SSLContext
    certificates: list[Certificate] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are for."""
        return self.certificates[0].names


class Certificates:
    """Those of one service; replaced whole, never changed."""

    def __init__(self, groups: list[Group], warnings: list[str], files: dict[Path, int], verify: bool) -> None:
        self.groups = groups
        self.warnings = warnings
        self.verify = verify
        """Whether clients are asked for certificates."""
        self.since = datetime.now(UTC)
        """When they were read, and what is odd about them was said."""
        self._files = files
        self._exact: dict[str, Group] = {}
        self._wild: dict[str, Group] = {}
        for group in groups:
            for name in group.names:
                if name.startswith("*."):
                    self._wild.setdefault(name[2:], group)
                else:
                    self._exact.setdefault(name, group)
            group.context.sni_callback = self._named

    @property
    def context(self) -> ssl.SSLContext:
        """What a handshake begins with: the first certificate's."""
        return self.groups[0].context

    @property
    def all(self) -> list[Certificate]:
        """Every certificate, as configured."""
        return [certificate for group in self.groups for certificate in group.certificates]

    def covering(self, name: str) -> Group | None:
        """Who has a certificate for a host's name (lower case, without port). A wildcard is one label (RFC 9525 section 6.3)."""
        found = self._exact.get(name)
        if found is None:
            found = self._wild.get(name.partition(".")[2])
        return found

    def _named(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        """The client named a host (RFC 6066 section 3): its certificate, else the first."""
        if name:
            connection.server_name = name  # type: ignore[union-attr]  # an SSLObject is a plain object, and keeps it for secured.py
            group = self.covering(name.lower().removesuffix("."))
            if group is not None and group.context is not connection.context:
                connection.context = group.context

    def changed(self) -> dict[Path, int] | None:
        """When the files were written, if one was since it was read."""
        files = {path: _mtime(path) for path in self._files}
        return files if files != self._files else None

    def seen(self, files: dict[Path, int]) -> None:
        """What was written then cannot be used: do not say so again before a file is written again."""
        self._files = files


def _mtime(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where it cannot be told."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read(values: dict[str, Any], now: datetime | None = None) -> Certificates:
    """The certificates that the ssl_* tunables of a service name. `now`: for tests. Raises: ConfigError."""
    now = now or datetime.now(UTC)
    files, keys = values["ssl_cert_file"], values["ssl_key_file"] or values["ssl_cert_file"]
    if not files:
        raise ConfigError("enable_ssl needs SET ssl_cert_file", about="ssl_cert_file")
    if len(files) != len(keys):
        raise ConfigError(
            f"ssl_cert_file names {len(files)} files and ssl_key_file {len(keys)}: they are in step, a key for each certificate",
            about="ssl_key_file",
        )
    seen = {path: _mtime(path) for path in (*files, *keys)}
    warnings: list[str] = []
    groups: list[Group] = []
    for file, key in zip(files, keys, strict=True):
        certificate = _certificate(file, key, now, warnings)
        group = next((group for group in groups if _fits(group, certificate)), None)
        if group is None:
            group = Group(_context(values, warnings if not groups else []))
            groups.append(group)
        try:
            group.context.load_cert_chain(file, key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{file}: {said(error)}", about="ssl_cert_file") from None
        group.certificates.append(certificate)
    return Certificates(groups, warnings, seen, bool(values["ssl_verify_mode"] & 1))


def _fits(group: Group, certificate: Certificate) -> bool:
    """Whether a certificate is another kind of key for the names of a group."""
    kinds = {each.kind for each in group.certificates}
    return set(group.names) == set(certificate.names) and certificate.kind not in kinds


def said(error: Exception) -> str:
    """What OpenSSL says, in words."""
    return str(getattr(error, "reason", None) or (error.args or (error,))[-1]).replace("_", " ").lower().rstrip(".")


def _printable(name: "Name") -> str:
    """A distinguished name for one line of a log or a console."""
    return "".join(letter if letter.isprintable() else "?" for letter in name.rfc4514_string())


def _text(path: Path, tunable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", about=tunable) from None


def _certificate(file: Path, key_file: Path, now: datetime, warnings: list[str]) -> Certificate:
    """Read and check one. Raises: ConfigError."""
    from cryptography import x509  # 30 ms, which a pbal without TLS need not spend
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        chain = x509.load_pem_x509_certificates(_text(file, "ssl_cert_file"))
        first = chain[0]
        names = _names(first)
        public = first.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ConfigError(f"{file}: no certificate in PEM: {str(error).split('.')[0]}", about="ssl_cert_file") from None
    key = _key(key_file)
    certified, ours = (each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in (public, key.public_key()))
    if certified != ours:
        raise ConfigError(f"{key_file}: this key does not belong to the certificate in {file}", about="ssl_key_file")
    begins, ends = first.not_valid_before_utc, first.not_valid_after_utc
    if ends < now:
        raise ConfigError(f"{file}: the certificate expired on {ends:%Y-%m-%d}", about="ssl_cert_file")
    if begins > now:
        raise ConfigError(f"{file}: the certificate is not valid before {begins:%Y-%m-%d %H:%M} UTC", about="ssl_cert_file")
    certificate = Certificate(
        file, key_file, _printable(first.subject), _printable(first.issuer), names, begins, ends,
        type(key).__name__.lstrip("_").removesuffix("PrivateKey").removeprefix("Elliptic").replace("Curve", "EC"),
    )  # fmt: skip
    if not names:
        warnings.append(f"{file}: the certificate names no host (subjectAltName): clients will refuse it")
    if certificate.days_left(now) < EXPIRES_SOON:
        warnings.append(f"{file}: the certificate expires in {certificate.days_left(now)} days, on {ends:%Y-%m-%d}")
    _look_at_chain(file, chain, warnings)
    _look_at_rights(key_file, warnings)
    return certificate


def _names(certificate: "X509") -> tuple[str, ...]:
    """DNS names and addresses of the subjectAltName."""
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(address) for address in extension.get_values_for_type(x509.IPAddress)]
    return tuple(name.lower() for name in extension.get_values_for_type(x509.DNSName)) + tuple(addresses)


def _key(file: Path) -> Any:
    """The private key in a file. Raises: ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(_text(file, "ssl_key_file"), None)
    except TypeError:
        raise ConfigError(f"{file}: the key is encrypted, and there is nobody to ask for its passphrase", about="ssl_key_file") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file}: no private key in PEM: {str(error).split('.')[0]}", about="ssl_key_file") from None


def _look_at_chain(file: Path, chain: list["X509"], warnings: list[str]) -> None:
    """Warn of a chain whose links do not hold, or that stops short of an issuer that clients know."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    for place, (lower, upper) in enumerate(pairwise(chain), 1):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            warnings.append(f"{file}: certificate {place + 1} in it did not issue certificate {place}: the chain is broken")
            return
    last = chain[-1]
    if last.issuer != last.subject and not _is_root(last.issuer.public_bytes()):
        warnings.append(
            f"{file}: the chain ends at '{_printable(last.issuer)}', which is no root of this system:"
            " clients that do not know it will refuse (is an intermediate certificate missing?)"
        )


def _is_root(issuer: bytes) -> bool:
    """Whether the system trusts a root of that name (DER)."""
    from cryptography import x509

    store = ssl.create_default_context()
    for der in store.get_ca_certs(binary_form=True):
        try:
            if x509.load_der_x509_certificate(der).subject.public_bytes() == issuer:
                return True
        except ValueError:  # an odd root says nothing of ours
            continue
    return False


def _look_at_rights(key_file: Path, warnings: list[str]) -> None:
    """Warn of a key that others can read."""
    if os.stat(key_file).st_mode & (stat.S_IROTH | stat.S_IWOTH):
        warnings.append(f"{key_file}: the key can be read or written by every user of this machine")


# -- contexts ----------------------------------------------------------------------------------------------------


def _context(values: dict[str, Any], warnings: list[str]) -> ssl.SSLContext:
    """A server's context without certificates. Raises: ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if values["ssl_honor_cipher_order"]:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(PROTOCOLS)
    context.num_tickets = 1  # a client that comes back gets its next one then
    if values["ssl_cipher_list"]:
        context.set_ciphers(strong_ciphers(values["ssl_cipher_list"], warnings))
    mode = values["ssl_verify_mode"]
    if mode & 1:
        context.verify_mode = ssl.CERT_REQUIRED if mode & 2 else ssl.CERT_OPTIONAL
        if not values["ssl_ca_path"]:
            raise ConfigError("ssl_verify_mode needs SET ssl_ca_path: whom clients may be certified by", about="ssl_ca_path")
        load_authorities(context, values["ssl_ca_path"], "ssl_ca_path")
    elif values["ssl_ca_path"]:
        warnings.append("ssl_ca_path has no effect while ssl_verify_mode is 0")
    return context


def strong_ciphers(text: str, warnings: list[str]) -> str:
    """The ciphers of an OpenSSL cipher list that are safe; those left out are named in a warning. Raises: ConfigError."""
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        scratch.set_ciphers(text + ":@SECLEVEL=0")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"ssl_cipher_list: {said(error)}", about=text) from None
    listed = [cipher for cipher in scratch.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    strong = [str(cipher["name"]) for cipher in listed if _is_strong(cipher)]
    weak = [str(cipher["name"]) for cipher in listed if not _is_strong(cipher)]
    if not strong:
        raise ConfigError("ssl_cipher_list: no cipher of it is safe", about=text)
    if weak:
        more = f" and {len(weak) - 3} more" if len(weak) > 3 else ""
        warnings.append(f"ssl_cipher_list: left out, since insecure: {', '.join(weak[:3])}{more}")
    return ":".join(strong)


def _is_strong(cipher: Mapping[str, Any]) -> bool:
    name = str(cipher["name"])
    return int(cipher["strength_bits"]) >= 128 and not any(part in name for part in _WEAK)


def load_authorities(context: ssl.SSLContext, path: Path, tunable: str) -> None:
    """Trust the certificates of a file, or of every file in a directory. Raises: ConfigError."""
    try:
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", about=tunable) from None
    texts = [text for file in files if b"BEGIN CERTIFICATE" in (text := _text(file, tunable))]
    if not texts:
        raise ConfigError(f"{path}: no certificate in PEM", about=tunable)
    try:
        context.load_verify_locations(cadata=b"\n".join(texts).decode("ascii", "ignore"))  # comments may be in any encoding
    except ssl.SSLError as error:
        raise ConfigError(f"{path}: {said(error)}", about=tunable) from None


def backend_context(authorities: Path | None, verify: bool) -> ssl.SSLContext:
    """What connections to nodes are made with. Raises: ConfigError."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(PROTOCOLS[:1])
    if authorities is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(PROTOCOLS[:1])
        load_authorities(context, authorities, "ssl_backend_ca")
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def host_name(host: str) -> str:
    """A Host field's name as certificates have it: lower case, without port, brackets and the last dot."""
    name = host.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.removesuffix(".")
