"""Media types by the endings of file names."""

import mimetypes
import posixpath

_TYPES = mimetypes.MimeTypes(filenames=())
for _type, _ending in (
    ("text/javascript", ".js"), ("text/javascript", ".mjs"), ("image/svg+xml", ".svg"), ("image/webp", ".webp"),
    ("font/woff2", ".woff2"), ("application/wasm", ".wasm"), ("text/markdown", ".md"), ("image/avif", ".avif"),
):  # fmt: skip
    _TYPES.add_type(_type, _ending)


def media_types() -> dict[str, str]:
    """Every ending that is known, without its dot, and its media type."""
    return {ending[1:]: kind for ending, kind in _TYPES.types_map[True].items()}


def content_type(name: bytes) -> bytes:
    """The media type by the name's ending, in any case; text with its charset."""
    ending = posixpath.splitext(name.decode("utf-8", "replace"))[1]
    guess, encoding = _TYPES.guess_type("x" + ending.lower())  # of a whole name it would read "data:..." as a URL
    if encoding is not None or guess is None:
        return b"application/octet-stream"
    if guess.startswith("text/") or guess in ("application/json", "application/xml", "image/svg+xml"):
        return guess.encode() + b"; charset=utf-8"
    return guess.encode()
