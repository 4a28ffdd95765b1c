"""Of a web_server: which files, and what is said of them."""

from pbal.schema import types
from pbal.schema.tunables import Tunable

_PERLBAL = "Perlbal service parameters"

WEB: tuple[Tunable, ...] = (
    Tunable(
        "docroot",
        types.DIRECTORY,
        summary="Directory of the files to serve.",
        source=_PERLBAL,
    ),
    Tunable(
        "index_files",
        types.WORDS,
        default="index.html",
        summary="Files to try, in this order, when the request is for a directory.",
        source=_PERLBAL,
    ),
    Tunable(
        "dirindexing",
        types.BOOL,
        default="off",
        summary="Answer a request for a directory that has none of the index_files with a list of what is in it; otherwise 403."
        " Names that begin with a dot are left out, and so is what would not be served.",
        source="differs: without it 403, and not 200; names are escaped; the list has sizes and dates, and no dot files",
    ),
    Tunable(
        "dirindexing_limit",
        types.INT,
        default="2000",
        minimum="1",
        maximum="20000",
        unit="names",
        summary="Most names in such a list. One of a larger directory says how many there are.",
        source="pbal",
    ),
)
