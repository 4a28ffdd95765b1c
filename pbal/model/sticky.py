"""Sticky sessions: a cookie that binds a client to a node (the pool's tunable `sticky`).

The cookie's value is ID.SIGNATURE. ID stands for the node and tells nothing of it: it is made from the node's name with the key. SIGNATURE
is made from ID with the key. So a client can neither learn an address from it nor choose a node, and a cookie that somebody made up is told
from one whose node has gone. Every process with the same key makes the same cookie for a node, and no table is shared or kept.

A cookie that came whole is looked up as it is; nothing is computed for it. Only one that no node has is checked for its signature, to
say what is wrong with it.
"""

import hmac
import os
from base64 import urlsafe_b64encode
from typing import Final

_KEY: Final = os.urandom(32)
"""Of this process, for pools that have no sticky_key: it outlives every RELOAD."""
_LONGEST: Final = 100
"""Octets; no value of ours is longer."""


class Sticky:
    """The cookies of one pool."""

    __slots__ = ("_key", "name")

    def __init__(self, name: bytes, key: bytes | None) -> None:
        self.name = name
        """The cookie's."""
        self._key = key or _KEY

    def value(self, node: str) -> bytes:
        """The cookie of a node."""
        opaque = self._made(b"node\0" + node.encode("utf-8", "surrogateescape"), 12)
        return opaque + b"." + self._made(b"signature\0" + opaque, 18)

    def signed(self, value: bytes) -> bool:
        """Whether a value was made with this key."""
        if len(value) > _LONGEST:
            return False
        opaque, _, signature = value.partition(b".")
        return hmac.compare_digest(signature, self._made(b"signature\0" + opaque, 18))

    def _made(self, of: bytes, size: int) -> bytes:
        return urlsafe_b64encode(hmac.digest(self._key, of, "sha256")[:size])

    def field(self, value: bytes, secure: bool) -> bytes:
        """The line of a head that gives a client the cookie. `secure`: it came by TLS, and the cookie is to come by nothing else."""
        return b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax%b\r\n" % (self.name, value, b"; Secure" if secure else b"")

    def found(self, header: bytes) -> list[bytes]:
        """The values of the cookie in a Cookie field. There may be several: of another path, of another domain."""
        return [value for name, value in map(_pair, header.split(b";")) if name == self.name] if self.name in header else []

    def without(self, header: bytes) -> bytes | None:
        """A Cookie field without the cookie; None if nothing is left."""
        return b"; ".join([part.strip(b" \t") for part in header.split(b";") if _pair(part)[0] != self.name]) or None


def _pair(part: bytes) -> tuple[bytes, bytes]:
    name, _, value = part.partition(b"=")
    return name.strip(b" \t"), value.strip(b" \t").strip(b'"')
