"""JSON Web Tokens (RFC 7519): the key file, and what a token that it verifies says.

**The key fixes the algorithm, never the token.** What a token says in `alg` is compared with the algorithm of its key and is
otherwise not listened to, so `none`, and an HMAC made with the text of a public key, are refused like any other mismatch. What is
in the file says which key it is:

    a PEM public key or certificate   RSA of 2048 bits or more: RS256; EC P-256: ES256; Ed25519: EdDSA
    a JWK, or a JWKS of several       the same by `kty`, and `oct`: HS256; a token names its key by `kid`
    anything else                     the secret of HS256, of 32 octets or more (RFC 7518 section 3.2), without a newline at its end

A PEM that cannot be read is an error and not a secret, and so is a private key, which a proxy has no use for.

PyJWT verifies the signature. The claims are looked at here: it would take the time from elsewhere, and "exp": "soon" for what it
is not. `exp` is required: a token without an end could never be taken back.
"""

import json
import os
from collections.abc import Callable
from math import inf
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from pbal.api import ConfigError

from .grants import Grant, Patterns, patterns_in

LEEWAY = 5.0
"""Seconds by which clocks may differ: for so long after `exp`, and before `nbf`, a token is good."""
LONGEST = 8192
"""Octets of a token; a request line holds no more either."""
LONGEST_FILE = 1 << 20
SHORTEST_SECRET = 32
"""Octets. RFC 7518 section 3.2: as long as the hash."""
LATEST = 1e12
"""Seconds since the epoch. What is later was said in milliseconds."""

_JWS = jwt.PyJWS()
"""It keeps nothing of what it verifies, and making one makes all its algorithms."""

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | bytes
Claims = dict[str, object]


class BadToken(ValueError):
    """A token that is not good. The text says why, to its bearer."""


class BadKey(ValueError):
    """A key that cannot be used. The text says why, to the operator."""


class Key:
    """A key and the one algorithm it is for."""

    __slots__ = ("algorithm", "key")

    def __init__(self, key: object) -> None:
        """Raises: BadKey for a kind or a size that is not taken."""
        if isinstance(key, RSAPublicKey):
            if key.key_size < 2048:
                raise BadKey(f"an RSA key of {key.key_size} bits; 2048 is the least")
            self.algorithm = "RS256"
        elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            self.algorithm = "ES256"
        elif isinstance(key, Ed25519PublicKey):
            self.algorithm = "EdDSA"
        elif isinstance(key, bytes):
            if len(key) < SHORTEST_SECRET:
                raise BadKey(f"a secret of {len(key)} bytes; {SHORTEST_SECRET} is the least")
            self.algorithm = "HS256"
            try:
                _JWS.get_algorithm_by_name(self.algorithm).prepare_key(key)
            except jwt.InvalidKeyError as error:
                raise BadKey(str(error)) from None
        else:
            raise BadKey("not a key of RSA, EC P-256 or Ed25519")
        self.key: PublicKey = key


_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA", "oct": "HS256"}


class Keys:
    """The keys of one file."""

    __slots__ = ("_by_kid", "_only")

    def __init__(self, named: dict[str, Key], only: Key | None) -> None:
        self._by_kid = named
        self._only = only

    def payload(self, token: bytes) -> bytes:
        """What a token carries, once its signature was found to be good. Raises: BadToken."""
        try:
            key = self._only or self._named(token)
            held = _JWS.decode_complete(token, key.key, algorithms=[key.algorithm])
        except jwt.InvalidAlgorithmError:
            raise BadToken("it is signed in another way than the key is for") from None
        except jwt.InvalidSignatureError:
            raise BadToken("its signature is not good") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, UnsupportedAlgorithm) as error:
            raise error if isinstance(error, BadToken) else BadToken("it is not a token") from None
        payload: object = held["payload"]
        if not isinstance(payload, bytes):
            raise BadToken("it is not a token")
        return payload

    def _named(self, token: bytes) -> Key:
        """Of several keys the one that the token names."""
        kid: object = jwt.get_unverified_header(token).get("kid")
        key = self._by_kid.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise BadToken("it names no key that is known here")
        return key


# -- the file ----------------------------------------------------------------------------------------------------


def keys_in(content: bytes) -> Keys:
    """The keys that a file holds. Raises: BadKey."""
    if content.lstrip()[:1] == b"{":
        return _from_json(content)
    if b"-----BEGIN" in content:
        return Keys({}, Key(_from_pem(content)))
    for load in (load_der_public_key, _certified):
        try:
            return Keys({}, Key(load(content)))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if isinstance(error, BadKey):
                raise
    if content.startswith((b"ssh-", b"ecdsa-sha2-")):
        raise BadKey("a key of OpenSSH: write it as PEM (ssh-keygen -e -m PKCS8)")
    return Keys({}, Key(content.rstrip(b"\r\n")))


def _certified(content: bytes) -> object:
    return x509.load_der_x509_certificate(content).public_key()


def _from_pem(content: bytes) -> object:
    if b"PRIVATE KEY" in content:
        raise BadKey("a private key: give the public key that belongs to it")
    try:
        if b"-----BEGIN CERTIFICATE" in content:
            return x509.load_pem_x509_certificate(content).public_key()
        return load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey("not a PEM that can be read") from None


def _from_json(content: bytes) -> Keys:
    """A JWKS, or one JWK. Keys for other ends (`use`, `alg`) are passed over: providers list theirs, too. Source: RFC 7517."""
    try:
        read: object = json.loads(content)
    except (ValueError, RecursionError):
        raise BadKey("begins like JSON and is none") from None
    listed = read.get("keys", [read]) if isinstance(read, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise BadKey("a JWKS is an object with a list of keys")
    named: dict[str, Key] = {}
    found: list[Key] = []
    for jwk in listed:
        key = _from_jwk(jwk)
        if key is None:
            continue
        found.append(key)
        kid: object = jwk.get("kid")
        if isinstance(kid, str):
            if kid in named:
                raise BadKey(f"two keys have the kid {kid!r:.40}")
            named[kid] = key
    if not found:
        raise BadKey("no key in it is for signatures of RS256, ES256, EdDSA or HS256")
    if len(found) > 1 and len(named) < len(found):
        raise BadKey("of several keys each needs a kid")
    return Keys(named, found[0] if len(found) == 1 else None)


def _from_jwk(jwk: dict[str, object]) -> Key | None:
    """None for a key that is for something else. Raises: BadKey."""
    algorithm = _ALGORITHMS.get(str(jwk.get("kty")))
    if algorithm is None or jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    if algorithm != "HS256" and "d" in jwk:
        raise BadKey("a private key: give the public key that belongs to it")
    try:
        return Key(jwt.PyJWK(jwk, algorithm).key)
    except BadKey:
        raise
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise BadKey(f"a JWK that cannot be read: {error}") from None


def read_keys(path: Path) -> Keys:
    """Raises: ConfigError with the file and the reason."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"poll_auth: {path}: {error.strerror or error}", about="poll_auth") from None
    if len(content) > LONGEST_FILE:
        raise ConfigError(f"poll_auth: {path}: too long to be a key", about="poll_auth")
    try:
        return keys_in(content)
    except BadKey as error:
        raise ConfigError(f"poll_auth: {path}: {error}", about="poll_auth") from None


class KeyFile:
    """The keys of a file, read again after it was written.

    It is looked at when a token comes, once a second at most. What cannot be read is told once, and the keys that were go on.
    """

    __slots__ = ("_looked", "_path", "_stamp", "_tell", "keys")

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        """`tell` gets what is wrong with a later version of the file. Raises: ConfigError."""
        self._path = path
        self._tell = tell
        self._looked = -inf
        self._stamp = self._seen()
        self.keys = read_keys(path)

    def look(self, now: float) -> bool:
        """Look whether the file was written; True when there are other keys. `now`: clock time."""
        if now < self._looked + 1:
            return False
        self._looked = now
        stamp = self._seen()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.keys = read_keys(self._path)
        except ConfigError as error:
            self._tell(f"{error.message}; the keys in use stay")
            return False
        return True

    def _seen(self) -> tuple[int, int, int]:
        try:
            there = os.stat(self._path)
        except OSError:
            return (0, 0, 0)
        return (there.st_mtime_ns, there.st_size, there.st_ino)


# -- the claims --------------------------------------------------------------------------------------------------


def grant_of(keys: Keys, token: bytes, audience: str | None, epoch: float) -> Grant:
    """What a token is good for at `epoch` (seconds). Raises: BadToken; nothing else, whatever the token is."""
    if len(token) > LONGEST:
        raise BadToken("it is too long")
    try:
        claims: object = json.loads(keys.payload(token))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, BadToken) else BadToken("its claims are not JSON") from None
    if not isinstance(claims, dict):
        raise BadToken("its claims are not an object")
    ends, begins = _moment(claims, "exp"), _moment(claims, "nbf")
    if ends is None:
        raise BadToken("it has no exp")
    if epoch >= ends + LEEWAY:
        raise BadToken("it has expired")
    if begins is not None and epoch < begins - LEEWAY:
        raise BadToken("it is not good yet")
    _look_at_audience(claims, audience)
    return Grant(_patterns(claims, "poll"), _patterns(claims, "publish"), ends + LEEWAY)


def _moment(claims: Claims, name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2)."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        raise BadToken(f"its {name} is not a time in seconds")
    return float(value)


def _look_at_audience(claims: Claims, audience: str | None) -> None:
    """Source: RFC 7519 section 4.1.3: a token for others is not for us, and one for somebody is for others unless we know our name."""
    said = claims.get("aud")
    if said is None and audience is None:
        return
    if audience is None or (audience != said and not (isinstance(said, list) and audience in said)):
        raise BadToken("it is for another audience")


def _patterns(claims: Claims, name: str) -> Patterns:
    try:
        return patterns_in(claims.get(name))
    except ValueError as error:
        raise BadToken(f"its {name} is {error}") from None
