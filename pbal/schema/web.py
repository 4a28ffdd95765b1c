"""Of a web_server: which files, and what is said of them."""

from pbal.schema import types
from pbal.schema.caching import CACHING
from pbal.schema.kinds import BadValue
from pbal.schema.tunables import Tunable

NEIGHBOURS = ("gzip", "br", "zstd")
"""Codings of files that may stand beside those that they are made of."""

_PERLBAL = "Perlbal service parameters"


def _neighbours(text: str) -> tuple[str, ...]:
    names = text.lower().replace(",", " ").split()
    if names == ["off"]:
        return ()
    if not names or len(set(names)) != len(names) or not set(names) <= set(NEIGHBOURS):
        expected = "off, or some of gzip, br and zstd, the preferred one first"
        raise BadValue(f"expected {expected}, found {text!r}", expected=expected)
    return tuple(names)


PRECOMPRESSED: types.Type[tuple[str, ...]] = types.Type(
    "codings", _neighbours, lambda value: " ".join(value) or "off", ("off", *NEIGHBOURS)
)


def _index(text: str) -> tuple[str, ...]:
    names = types.words(text)
    for name in names:
        if "\0" in name or name.startswith("/") or name.endswith("/") or {"", ".", ".."} & set(name.split("/")):
            expected = "names of files below the directory, such as index.html"
            raise BadValue(f"expected {expected}, found {name!r}", expected=expected)
    return names


INDEX: types.Type[tuple[str, ...]] = types.Type("words", _index, " ".join)

WEB: tuple[Tunable, ...] = (
    Tunable(
        "docroot",
        types.DIRECTORY,
        summary="Directory of the files to serve.",
        source=_PERLBAL,
    ),
    Tunable(
        "index_files",
        INDEX,
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
    Tunable(
        "cache_control",
        CACHING,
        default="no-cache",
        perlbal="off",
        summary="How long caches and browsers may keep files of which CACHE says nothing: a duration, directives of Cache-Control, or off."
        " With no-cache they ask each time whether it has changed. If it is off, each cache decides for itself.",
        source="pbal (Perlbal says nothing)",
    ),
    Tunable(
        "enable_concatenate_get",
        types.BOOL,
        default="off",
        summary="Answer a request such as `/js/??a.js,b.js` with several files in one: at most 100, of which none is missing."
        " If a rule by path (LIMIT, VPATH, basic_auth_path) finds something else in the path of one than in that of the request: 403.",
        source="differs: names are decoded after they are divided at commas; off: what follows `??` is a query as any other",
    ),
    Tunable(
        "concatenate_max_size",
        types.SIZE,
        default="16m",
        perlbal="0",
        unit="bytes",
        summary="Most bytes of several files together. More are answered 403. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "precompressed",
        PRECOMPRESSED,
        default="off",
        summary="Send a file that was compressed before in place of another: `app.js.gz`, `.br` or `.zst` beside `app.js`, if the client"
        " accepts it and it is not older. Of those that it accepts equally, the first is sent.",
        source="pbal (nginx: gzip_static)",
    ),
)
