"""The PROXY protocol, versions 1 and 2: octets that a proxy in front sends first, to say whom its connection is for.

    decode    octets as they come -> a Header, None while more is needed, or BadHeader at the first octet that cannot be part of one
    encode    addresses -> a header, for connections that pbal makes

Nothing here knows a socket or a clock: net/announced.py has the connection, and bounds the time. What a header may be is bounded here,
so a peer that never ends one is found out: version 1 by the protocol (107 octets), version 2 by MOST_OF_V2.

What the header says is taken as it is meant: LOCAL (a health check of the proxy's own) and UNKNOWN say nothing of a client, and the peer is
whoever connected. A family or a transport that is not known here counts as UNKNOWN, too, as the protocol asks. TLVs are
passed over; but where one has a checksum, it has to be right.

Source: HAProxy, doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

Address = tuple[str, int]
"""An IP address without brackets, and a port."""

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""What version 2 begins with."""
WORD: Final = b"PROXY "
"""What version 1 begins with."""
MOST_OF_V1: Final = 107
"""Octets, CRLF included (section 2.1)."""
MOST_OF_V2: Final = 4096
"""Octets. Addresses take 52; what else comes are TLVs: a certificate of a client is the longest of those in use."""

_CHECKSUM: Final = 0x03
_LOCAL, _PROXY = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM: Final = 1
_SIZES: Final = {_INET: 12, _INET6: 36, _UNIX: 216}
_NAMES: Final = {b"TCP4": 4, b"TCP6": 6}


class BadHeader(Exception):
    """What came is no header. Its text says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header that came whole."""

    version: int
    length: int
    """Octets of it; what follows belongs to the connection."""
    source: Address | None = None
    """Who connected to the proxy in front; None: the header does not say, and it is whoever sent it."""
    destination: Address | None = None
    """Where they connected to."""
    unix: bool = False
    """They came by a Unix socket, and have no address."""


def begins(octets: bytes) -> bool:
    """Whether octets begin as a header does, of either version. More may be needed to tell where they are fewer than 12."""
    return octets.startswith((WORD, SIGNATURE))


def decode(octets: bytes) -> Header | None:
    """The header that `octets` begin with; None while it is not there whole. Raises: BadHeader."""
    if SIGNATURE.startswith(octets[: len(SIGNATURE)]):
        return _second(octets)
    if WORD.startswith(octets[: len(WORD)]):
        return _first(octets)
    raise BadHeader("no PROXY header")


# -- version 1 ---------------------------------------------------------------------------------------------------------


def _first(octets: bytes) -> Header | None:
    end = octets.find(b"\r\n", 0, MOST_OF_V1)
    if end < 0:
        if len(octets) >= MOST_OF_V1:
            raise BadHeader(f"a PROXY header of more than {MOST_OF_V1} bytes")
        return None
    words = octets[len(WORD) : end].split(b" ")
    length = end + 2
    if words[0] == b"UNKNOWN":  # whatever follows it (section 2.1)
        return Header(1, length)
    family = _NAMES.get(words[0])
    if family is None or len(words) != 5:
        raise BadHeader("a malformed PROXY header")
    source = _address(words[1], family), _port(words[3])
    return Header(1, length, source, (_address(words[2], family), _port(words[4])))


def _address(word: bytes, family: int) -> str:
    try:
        text = word.decode("ascii")
        address = ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text)
    except ValueError:  # UnicodeDecodeError is one
        raise BadHeader(f"a malformed IPv{family} address in a PROXY header") from None
    if "%" in text:
        raise BadHeader("an address with a zone in a PROXY header")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as text. IPv4 that came by a socket for both is IPv4 (RFC 4291 section 2.5.5.2): rules are about that."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(address if mapped is None else mapped)


def _port(word: bytes) -> int:
    port = int(word) if word.isdigit() and len(word) <= 5 else -1
    if not 0 <= port <= 65535 or b"%d" % port != word:  # no zeros before it (section 2.1)
        raise BadHeader("a malformed port in a PROXY header")
    return port


# -- version 2 ---------------------------------------------------------------------------------------------------------


def _second(octets: bytes) -> Header | None:
    if len(octets) > 12 and octets[12] >> 4 != 2:
        raise BadHeader(f"version {octets[12] >> 4} of a PROXY header")
    if len(octets) > 12 and octets[12] & 15 not in (_LOCAL, _PROXY):
        raise BadHeader(f"an unknown command ({octets[12] & 15}) in a PROXY header")
    if len(octets) < 16:
        return None
    length = 16 + int.from_bytes(octets[14:16])
    if length > MOST_OF_V2:
        raise BadHeader(f"a PROXY header of {length} bytes; {MOST_OF_V2} are taken")
    family, transport = octets[13] >> 4, octets[13] & 15
    told = octets[12] & 15 == _PROXY and transport == _STREAM and family in _SIZES
    least = 16 + _SIZES[family] if told else 16
    if length < least:
        raise BadHeader("a PROXY header too short for its addresses")
    if len(octets) < length:
        return None
    if told or family in _SIZES:
        _look_at_tlvs(octets[:length], min(length, 16 + _SIZES[family]))
    if not told:
        return Header(2, length)
    if family == _UNIX:
        return Header(2, length, unix=True)
    size = 4 if family == _INET else 16
    source, destination = (_plain(ipaddress.ip_address(octets[at : at + size])) for at in (16, 16 + size))
    ports: tuple[int, int] = struct.unpack_from("!HH", octets, 16 + 2 * size)
    return Header(2, length, (source, ports[0]), (destination, ports[1]))


def _look_at_tlvs(header: bytes, at: int) -> None:
    """Pass over the TLVs, which begin at `at`. Raises: BadHeader if they are no TLVs, or have a checksum that is wrong."""
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value]) if value <= len(header) else value
        if end > len(header):
            raise BadHeader("a PROXY header whose fields do not fit into it")
        if header[at] == _CHECKSUM:
            blank = header[:value] + bytes(end - value) + header[end:]
            if end - value != 4 or int.from_bytes(header[value:end]) != crc32c(blank):
                raise BadHeader("a PROXY header with a wrong checksum")
        at = end


def _table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        rest = number
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
        found.append(rest)
    return tuple(found)


_TABLE: Final = _table()


def crc32c(octets: bytes) -> int:
    """The checksum of section 2.2.3. Source: RFC 9260 appendix A."""
    rest = 0xFFFFFFFF
    for octet in octets:
        rest = _TABLE[(rest ^ octet) & 255] ^ rest >> 8
    return rest ^ 0xFFFFFFFF


# -- what pbal sends ---------------------------------------------------------------------------------------------------


def encode(version: int, source: Address | None, destination: Address | None, checksum: bool = False) -> bytes:
    """A header, of version 1 or 2, for a connection made for who came from `source` to `destination`.

    Where either is not known (None), it says so: UNKNOWN, or UNSPEC. Where one is of IPv4 and the other of IPv6, both are said as IPv6
    (RFC 4291 section 2.5.5.2). `checksum` adds one, to version 2. Raises: ValueError for what is no address.
    """
    found = None if source is None or destination is None else (ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0]))
    if found is not None and found[0].version != found[1].version:
        found = tuple(ipaddress.IPv6Address(f"::ffff:{each}") if each.version == 4 else each for each in found)  # type: ignore[assignment]
    ports = (0, 0) if source is None or destination is None else (source[1], destination[1])
    if version == 1:
        if found is None:
            return b"PROXY UNKNOWN\r\n"
        return f"PROXY TCP{found[0].version} {found[0]} {found[1]} {ports[0]} {ports[1]}\r\n".encode("ascii")
    if found is None:
        return _whole(_PROXY, 0, b"", checksum)
    family = _INET if found[0].version == 4 else _INET6
    return _whole(_PROXY, family << 4 | _STREAM, found[0].packed + found[1].packed + struct.pack("!HH", *ports), checksum)


def encode_local(version: int) -> bytes:
    """A header for a connection that pbal makes for itself, such as a health check. Version 1 knows no other word for it than UNKNOWN."""
    return b"PROXY UNKNOWN\r\n" if version == 1 else _whole(_LOCAL, 0, b"", False)


def _whole(command: int, family: int, rest: bytes, checksum: bool) -> bytes:
    blank = rest + (b"\x03\x00\x04" + bytes(4) if checksum else b"")
    octets = SIGNATURE + bytes((0x20 | command, family)) + struct.pack("!H", len(blank)) + blank
    return octets[:-4] + crc32c(octets).to_bytes(4) if checksum else octets
