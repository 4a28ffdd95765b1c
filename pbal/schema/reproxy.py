"""Of a reverse_proxy: answers that a node leaves to pbal."""

from pathlib import Path

from pbal.schema import types
from pbal.schema.destinations import DESTINATIONS
from pbal.schema.kinds import BadValue
from pbal.schema.tunables import Applies, Tunable
from pbal.schema.types import Type

_PERLBAL = "Perlbal service parameters"


def _parse_folders(text: str) -> tuple[Path, ...]:
    folders = types.PATHS.parse(text) if text.strip() else ()
    for folder in folders:
        if not folder.is_dir():
            raise BadValue(f"expected existing directories, found {str(folder)!r}", expected="existing directories")
    return folders


def _odd(text: str) -> str:
    return "/ lets nodes have every file that pbal can read" if Path("/") in _parse_folders(text) else ""


FOLDERS: Type[tuple[Path, ...]] = Type("directories", _parse_folders, types.PATHS.render, placed=types.PATHS.placed, odd=_odd)

REPROXY: tuple[Tunable, ...] = (
    Tunable(
        "enable_reproxy",
        types.BOOL,
        default="off",
        summary="Do what nodes say in X-REPROXY-FILE, -URL and -SERVICE: answer with a file, with what another server has, or hand the"
        " request to another service. `reproxy_root` and `reproxy_allow` say which files and servers.",
        source="differs: what nodes may have has to be named",
    ),
    Tunable(
        "reproxy_root",
        FOLDERS,
        default="",
        summary="Folders whose files X-REPROXY-FILE may name. A link that leads out of them is refused.",
        source="pbal (Perlbal sends any file)",
    ),
    Tunable(
        "reproxy_allow",
        DESTINATIONS,
        default="",
        summary="Servers to which X-REPROXY-URL may lead. A name that leads to this machine itself, or to an address of its link, is"
        " refused unless that address is named, too.",
        source="pbal (Perlbal fetches any URL)",
    ),
    Tunable(
        "buffer_size_reproxy_url",
        types.SIZE,
        default="50k",
        unit="bytes",
        minimum="1k",
        maximum="1g",
        applies=Applies.NEXT_CONNECTION,
        summary="pbal stops reading what X-REPROXY-URL named when this many bytes of it wait for a slow client.",
        source=_PERLBAL,
    ),
    Tunable(
        "reproxy_cache_maxsize",
        types.INT,
        default="0",
        unit="answers",
        maximum="10000000",
        summary="How many answers with X-REPROXY-CACHE-FOR to remember, so that the next request for the same asks no node. 0: none.",
        source="differs: what belongs to one client is not remembered; see REPROXYING",
    ),
)
