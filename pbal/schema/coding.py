"""Of every service that answers HTTP: content coding of what goes out."""

import re

from pbal.http1.coding import NUMBERS, missing
from pbal.schema.kinds import BadValue
from pbal.schema.tunables import Tunable
from pbal.schema.types import INT, SIZE, Type

_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/(?:\*|[!#$%&'*+.^_`|~0-9a-z-]+)")


def _codings(text: str) -> tuple[str, ...]:
    names = text.lower().replace(",", " ").split()
    if names == ["off"]:
        return ()
    expected = "off, or some of gzip, zstd and br, the preferred one first"
    if not names or len(set(names)) != len(names) or not set(names) <= NUMBERS.keys():
        raise BadValue(f"expected {expected}, found {text!r}", expected=expected)
    for name in names:
        package = missing(name)
        if package:
            raise BadValue(f"{name} needs the Python package {package}: pip install {package}", expected=expected)
    return tuple(names)


def _media_types(text: str) -> tuple[bytes, ...]:
    kinds = text.lower().replace(",", " ").split()
    for kind in kinds:
        if _MEDIA_TYPE.fullmatch(kind) is None:
            expected = "media types such as text/html or text/*"
            raise BadValue(f"expected {expected}, found {kind!r}", expected=expected)
    return tuple(kind.encode() for kind in kinds)


CODINGS: Type[tuple[str, ...]] = Type("codings", _codings, lambda value: " ".join(value) or "off", ("off", *NUMBERS))
MEDIA_TYPES: Type[tuple[bytes, ...]] = Type("media types", _media_types, lambda value: b" ".join(value).decode())

CODING: tuple[Tunable, ...] = (
    Tunable(
        "compress",
        CODINGS,
        default="off",
        summary="Compress responses, with what the client accepts. Of those that it accepts equally, the first is used. See COMPRESSION.",
        source="pbal",
    ),
    Tunable(
        "compress_types",
        MEDIA_TYPES,
        default="text/html text/css text/plain text/javascript text/xml application/javascript application/json application/problem+json"
        " application/manifest+json application/xml application/rss+xml application/atom+xml image/svg+xml",
        summary="Media types that are compressed.",
        source="pbal",
    ),
    Tunable(
        "compress_min_length",
        SIZE,
        default="512",
        unit="bytes",
        summary="A shorter response is sent as it is. One whose length is not known in advance is compressed.",
        source="pbal",
    ),
    Tunable(
        "compress_level",
        INT,
        default="5",
        unit="levels",
        minimum="1",
        maximum="9",
        summary="How hard to try: 1 is fast, 9 makes responses smallest.",
        source="pbal",
    ),
)
