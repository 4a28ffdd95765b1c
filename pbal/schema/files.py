"""Of a web_server: which files it serves."""

from typing import Final

from pbal.schema import types
from pbal.schema.tunables import Tunable

NEVER: Final = "never"
INSIDE: Final = "inside"
ANYWHERE: Final = "anywhere"

FINDING: tuple[Tunable, ...] = (
    Tunable(
        "dot_files",
        types.BOOL,
        default="off",
        perlbal="on",
        summary="Serve files and folders whose names begin with a dot, such as `.git` and `.htpasswd`. If it is off they are 404, also"
        " where a link leads to them; `/.well-known/` is served all the same.",
        source="differs: Perlbal serves them",
    ),
    Tunable(
        "follow_symlinks",
        types.enum(NEVER, INSIDE, ANYWHERE),
        default=INSIDE,
        perlbal=ANYWHERE,
        summary="Which symbolic links below docroot are followed: none, those that end inside docroot, or all. What is behind another is"
        " 404. docroot itself may be a link.",
        source="differs: Perlbal follows all",
    ),
)
