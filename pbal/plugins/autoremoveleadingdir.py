"""autoremoveleadingdir: a web_server takes the name of its docroot off the beginning of a path.

    LOAD autoremoveleadingdir
    CREATE SERVICE files
      SET role    = web_server
      SET docroot = /srv/www
      SET plugins = autoremoveleadingdir

Both /www/logo.png and /logo.png are the file /srv/www/logo.png. So a web_server can stand behind a selector that sends it /www/... by
path. It is taken off once: a folder www in docroot is at /www/www/.

Rules by path (LIMIT, basic_auth_path) see the path as it was asked for. Where one would be for /private/x and was not for /www/private/x,
the answer to the latter is 403: write such a rule for both, as in ^(/www)?/private.

Source: Perlbal's AutoRemoveLeadingDir. differs: /wwwroot does not begin with /www. There it is cut to root.
"""

from typing import Any

from pbal.api import Exchange, Lookup, Plugin, Verdict, hook


class AutoRemoveLeadingDir(Plugin):
    """The name of one docroot."""

    roles = frozenset({"web_server"})

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._leading = b""
        """With the slash before it; b"" where docroot is unset, or the root of the file system."""

    def open(self) -> None:
        self.changed("docroot")

    def changed(self, tunable: str) -> None:
        if tunable == "docroot":
            last = str(self.service["docroot"] or "").rstrip("/").rpartition("/")[2]
            self._leading = b"/" + last.encode("utf-8", "surrogateescape") if last else b""

    @hook.start_serve_request
    def take_off(self, exchange: Exchange, lookup: Lookup) -> Verdict:
        leading, path = self._leading, lookup.path
        if leading and path.startswith(leading) and path[len(leading) : len(leading) + 1] in (b"", b"/"):
            lookup.path = path[len(leading) :] or b"/"
        return Verdict.PASS
