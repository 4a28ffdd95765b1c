"""Checksums that a request names for its body, read: Content-Digest and Repr-Digest (RFC 9530), and Content-MD5 (RFC 1864).

Of the algorithms of RFC 9530 those count that are not deprecated. Others are passed over, as the RFC says.
"""

import base64
import binascii
import re
from typing import Final

ALGORITHMS: Final = {b"sha-256": ("sha256", 32), b"sha-512": ("sha512", 64)}
"""Names on the wire: those of hashlib, and their octets."""
PREFERRED: Final = b"sha-512=10, sha-256=5"
"""What Want-Content-Digest says of them (RFC 9530 section 4): which would have been taken."""
MD5: Final = "md5"

_MEMBER: Final = re.compile(rb"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):(?:[ \t]*;[^,]*)?[ \t]*")
"""A member of a dictionary of byte sequences (RFC 8941 section 3.2); its parameters say nothing here."""


class BadDigest(Exception):
    """A field that is none. The message is for the client."""


def _octets(text: bytes) -> bytes | None:
    """Base64, with or without its padding."""
    bare = text.rstrip(b"=")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return None


def digests(name: str, value: bytes) -> list[tuple[str, bytes]]:
    """What Content-Digest or Repr-Digest names: algorithms of hashlib and what they have to give. Raises: BadDigest."""
    found = []
    for member in value.split(b","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise BadDigest(f"{name} is not a list of digests such as sha-256=:...:")
        known = ALGORITHMS.get(match[1])
        if known is None:
            continue
        octets = _octets(match[2])
        if octets is None or len(octets) != known[1]:
            raise BadDigest(f"{name}: what is said of {match[1].decode()} are not the {known[1]} octets of one, in base64")
        found.append((known[0], octets))
    return found


def content_md5(value: bytes) -> tuple[str, bytes]:
    """What Content-MD5 names, in the same form. Raises: BadDigest."""
    octets = _octets(value.strip(b" \t"))
    if octets is None or len(octets) != 16:
        raise BadDigest("Content-MD5 are not the 16 octets of one, in base64")
    return MD5, octets


def named(fields: dict[bytes, bytes], md5: bool) -> list[tuple[str, bytes]]:
    """All that the fields of a request, or of its trailer section, name. `md5`: Content-MD5, too. Raises: BadDigest."""
    found = []
    for name, label in ((b"content-digest", "Content-Digest"), (b"repr-digest", "Repr-Digest")):
        if name in fields:
            found += digests(label, fields[name])
    if md5 and b"content-md5" in fields:
        found.append(content_md5(fields[b"content-md5"]))
    return found


def shown(octets: bytes) -> str:
    """A checksum in base64, for people."""
    return base64.b64encode(octets).decode("ascii")
