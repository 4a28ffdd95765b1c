"""Certificates for tests, made anew: an authority, what it certifies, and what is wrong with some."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = datetime.timedelta(days=1)


def name_of(common: str) -> x509.Name:
    """A distinguished name."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pbal tests"), x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Pair:
    """A certificate with its key, and where they were written."""

    def __init__(self, certificate: x509.Certificate, key: Key, file: Path, key_file: Path) -> None:
        self.certificate, self.key, self.file, self.key_file = certificate, key, file, key_file


class Authority:
    """Who certifies. `folder` gets all files; `file` is the root's certificate."""

    def __init__(self, folder: Path, name: str = "root") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name_of(name)
        self._root = self._signed(self._name, self._key, [], -1, 3650, True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._root.public_bytes(serialization.Encoding.PEM))

    def _signed(self, subject: x509.Name, key: Key, names: list[str], begins: int, ends: int, authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * DAY)
            .not_valid_after(now + ends * DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            alternatives = [_alternative(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def certify(self, *names: str, begins: int = -1, ends: int = 90, kind: str = "ec", file: str = "", together: bool = False) -> Pair:
        """A certificate for some names. `begins` and `ends`: days from now. `together`: key and certificate in one file."""
        key: Key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
        certificate = self._signed(name_of(names[0] if names else "nobody"), key, list(names), begins, ends)
        stem = file or (names[0].replace("*", "any") if names else "nobody") + ("" if kind == "ec" else f"-{kind}")
        path, key_path = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )  # fmt: skip
        pem = certificate.public_bytes(serialization.Encoding.PEM) + self._root.public_bytes(serialization.Encoding.PEM)
        path.write_bytes(key_pem + pem if together else pem)
        path.chmod(0o600)
        if not together:
            key_path.write_bytes(key_pem)
            key_path.chmod(0o600)
        return Pair(certificate, key, path, path if together else key_path)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
