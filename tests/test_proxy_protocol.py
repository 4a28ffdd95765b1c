"""The codec of the PROXY protocol: what is encoded is decoded again, cut anywhere; what is no header is told as early as that is plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbal.net.proxy_protocol import (
    MOST_OF_V1,
    MOST_OF_V2,
    SIGNATURE,
    Address,
    BadHeader,
    Header,
    begins,
    crc32c,
    decode,
    encode,
    encode_local,
)

PORTS = st.integers(0, 65535)
FOUR = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
SIX = st.tuples(st.ip_addresses(v=6).map(str).filter(lambda address: not address.startswith("::ffff:")), PORTS)


def cut(octets: bytes, more: bytes) -> Header:
    """What comes of a header that comes octet by octet, with more behind it. No part of it is enough, or refused."""
    for end in range(len(octets)):
        assert decode(octets[:end]) is None
    header = decode(octets + more)
    assert header is not None and header == decode(octets)
    assert header.length == len(octets)
    return header


@given(st.sampled_from((1, 2)), st.one_of(st.tuples(FOUR, FOUR), st.tuples(SIX, SIX)), st.booleans(), st.binary(max_size=20))
def test_what_is_encoded_is_decoded(version: int, pair: tuple[Address, Address], checksum: bool, more: bytes) -> None:
    octets = encode(version, *pair, checksum)
    assert begins(octets)
    header = cut(octets, more)
    assert header.version == version
    assert (header.source, header.destination) == pair and not header.unix


@given(FOUR, SIX)
def test_addresses_of_two_families_are_said_as_ipv6_and_heard_as_they_are(four: Address, six: Address) -> None:
    for version in (1, 2):
        octets = encode(version, four, six)
        assert octets[13] >> 4 == 2 if version == 2 else octets.startswith(b"PROXY TCP6 ::ffff:")
        header = decode(octets)
        assert header is not None and (header.source, header.destination) == (four, six)


@pytest.mark.parametrize(
    "octets",
    [
        encode(1, None, None),
        encode(2, None, None),
        encode(2, None, ("10.0.0.1", 80), checksum=True),
        encode_local(1),
        encode_local(2),
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        SIGNATURE + b"\x20\x11\x00\x0c" + b"\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x00\x51",  # LOCAL, with addresses
        SIGNATURE + b"\x20\x00\x00\x03" + b"???",
        SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12),  # datagrams
        SIGNATURE + b"\x21\x41\x00\x02" + bytes(2),  # a family of the future
    ],
)
def test_a_header_that_names_nobody(octets: bytes) -> None:
    header = cut(octets, b"GET / HTTP/1.1\r\n")
    assert header.source is None and header.destination is None and not header.unix


def test_a_header_of_a_unix_socket() -> None:
    header = cut(SIGNATURE + b"\x21\x31\x00\xd8" + b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0"), b"x")
    assert header.unix and header.source is None


def test_tlvs_are_passed_over_and_a_checksum_is_looked_at() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    plain = encode(2, ("10.0.0.1", 1), ("10.0.0.2", 2), checksum=True)
    addresses = plain[16:28]
    tlvs = b"\x01\x00\x02h2" + b"\x04\x00\x00" + b"\x02\x00\x03app"
    whole = SIGNATURE + b"\x21\x11" + (12 + len(tlvs)).to_bytes(2) + addresses + tlvs
    assert cut(whole, b"").source == ("10.0.0.1", 1)
    for place in range(13, len(plain)):
        wrong = bytearray(plain)
        wrong[place] ^= 1
        if place in (14, 15) or wrong[13] >> 4 != 1 or wrong[13] & 15 != 1 or place in (28, 29, 30):
            continue  # it is another header then
        with pytest.raises(BadHeader, match="checksum"):
            decode(bytes(wrong))


BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"PROXX",
    b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
    b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
    b"PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 ::1 ::2 1 2\r\n",
    b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP6 fe80::1%lo ::2 1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 \xb2 2\r\n",
    b"PROXY TCP4 \xff.1.1.1 2.2.2.2 1 2\r\n",
    b"PROXY TCP4 " + b"x" * MOST_OF_V1,
    b"PROXY UNKNOWN " + b"x" * MOST_OF_V1 + b"\r\n",
    SIGNATURE + b"\x11",
    SIGNATURE + b"\x30",
    SIGNATURE + b"\x22",
    SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
    SIGNATURE + b"\x21\x21\x00\x23" + bytes(35),
    SIGNATURE + b"\x21\x31\x00\xd7" + bytes(215),
    SIGNATURE + b"\x21\x11\xff\xff",
    SIGNATURE + b"\x21\x11" + (MOST_OF_V2 - 15).to_bytes(2),
    SIGNATURE + b"\x21\x11\x00\x0d" + bytes(13),
    SIGNATURE + b"\x21\x11\x00\x10" + bytes(12) + b"\x01\x00\x02x",
    SIGNATURE + b"\x21\x11\x00\x12" + bytes(12) + b"\x03\x00\x03abc",
    SIGNATURE[:11] + b"\r",
]


@pytest.mark.parametrize("octets", BAD)
def test_what_is_no_header_is_refused_whatever_follows(octets: bytes) -> None:
    for more in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(MOST_OF_V2)):
        with pytest.raises(BadHeader):
            decode(octets + more)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(SIGNATURE.__add__), st.binary(max_size=120).map(b"PROXY ".__add__)))
def test_any_octets_are_a_header_or_not_and_more_does_not_change_that(octets: bytes) -> None:
    decided: Header | str | None = None
    for end in range(len(octets) + 1):
        try:
            found: Header | str | None = decode(octets[:end])
        except BadHeader:
            found = "bad"
        assert decided is None or found == decided
        decided = found
