"""Of a web_server: PUT and DELETE."""

from pbal.schema import types
from pbal.schema.tunables import Tunable

_PERLBAL = "Perlbal service parameters"

WRITING: tuple[Tunable, ...] = (
    Tunable(
        "enable_put",
        types.BOOL,
        default="off",
        summary="Take files with PUT, below docroot. A file appears whole or not at all, and is on the disk when the answer is sent."
        " Whoever reaches the service may write: see WRITING FILES in pbal.conf(5).",
        source="differs: a PUT is written beside the file and then takes its place; 201 for a new file, 204 for one that is replaced",
    ),
    Tunable(
        "enable_delete",
        types.BOOL,
        default="off",
        summary="Remove files with DELETE, below docroot. A folder cannot be removed.",
        source="differs: conditions (If-Match and the like) hold; links are refused",
    ),
    Tunable(
        "max_put_size",
        types.SIZE,
        default="0",
        unit="bytes",
        summary="Largest file that a PUT may bring. A larger one is answered 413. max_body holds as well, and max_chunked_request_size"
        " for one that comes in chunks. 0: no limit but theirs.",
        source="differs: 413, and not 400; it holds for chunked ones, too",
    ),
    Tunable(
        "min_put_directory",
        types.INT,
        default="0",
        unit="folders",
        maximum="100",
        summary="Folders at the beginning of a path that must be there for a PUT; those that follow are made where they are missing. A path"
        " with fewer folders is answered 400, one of which they are missing 404.",
        source="differs: it holds for chunked ones, too",
    ),
    Tunable(
        "enable_md5",
        types.BOOL,
        default="on",
        summary="Check a PUT by its Content-MD5: another body than it names is answered 400, and nothing changes. Content-Digest and"
        " Repr-Digest (RFC 9530: sha-256, sha-512) are always checked.",
        source=_PERLBAL,
    ),
)
