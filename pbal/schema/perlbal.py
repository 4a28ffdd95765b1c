"""What Perlbal 1.80 knows and pbal does not do: not yet, or never because it has no meaning here.

Whoever brings a configuration of Perlbal is told so in these words, and not that the name is unknown. The tables of names that are not
built yet (tunables of services and pools, parameters of SERVER, roles, plugins, statements) say what of pbal does the job meanwhile; one
of names without meaning says why they have none. Whoever builds a thing takes its row out; what is built has its row in tunables.py,
roles.py or tls.py, with `source` telling whether it differs. The manual page pbal-perlbal(7) is made from all of them.

A tunable that is not built has the default of Perlbal, and a statement that asks for that default asks for nothing: it is taken.

Plugins that others wrote for Perlbal are Perl and cannot run here. Their names tell what kind of work they did, so a table of patterns
says what does that work in pbal.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pbal.schema import types
from pbal.schema.types import Type


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """A name of Perlbal's that is not built yet."""

    name: str
    instead: str = ""
    """What of pbal does the job, or what to do without; '' where there is nothing."""
    type: Type[Any] = types.TEXT
    default: str | None = None
    """Of a tunable: the default in Perlbal. Who asks for it asks for nothing."""

    @property
    def message(self) -> str:
        """What the operator reads."""
        return f"'{self.name}' is not built yet" + (f": {self.instead}" if self.instead else "")

    def asks_for_nothing(self, text: str) -> bool:
        """Whether a value is the default. Raises: ValueError if Perlbal would refuse it, too."""
        value = self.type.parse(text)
        return self.default is not None and value == self.type.parse(self.default)


@dataclass(frozen=True, slots=True)
class Meaningless:
    """A parameter of SERVER that is about Perlbal's own machinery: its value is checked, and nothing follows from it."""

    name: str
    type: Type[Any]
    why: str

    @property
    def message(self) -> str:
        """What the operator reads."""
        return f"{self.name} has no meaning here: {self.why}"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of plugin, by what its name holds, and what does its work in pbal."""

    kind: str
    name: re.Pattern[str]
    instead: str


def _by_name(rows: Iterable[Unbuilt]) -> dict[str, Unbuilt]:
    return {row.name.lower(): row for row in rows}


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text, re.ASCII):
        raise ValueError(f"expected a whole number such as -5, found {text!r}")
    return int(text)


_SIGNED: Type[int] = Type("integer", _integer)

_LIMIT = "LIMIT name 10/s BURST 50, and LIMIT name 20 CONCURRENT, bound what a client may ask for"

SERVICE: dict[str, Unbuilt] = _by_name(
    (
        Unbuilt("server_process", "start the process yourself, and name it with POOL ADD"),
        Unbuilt("latency", "", types.INT, "0"),
    )
)
"""Tunables of services."""


MEANINGLESS: dict[str, Meaningless] = {
    row.name: row
    for row in (
        Meaningless(
            "aio_mode", types.enum("none", "ioaio", "linux"), "what the kernel has in memory is read in the loop, the rest in threads"
        ),
        Meaningless("aio_threads", types.INT, "pbal has 8 threads for files, all of which it uses when the disk is slow"),
        Meaningless("track_obj", types.BOOL, "Python has its own tools for that"),
        Meaningless("crash_backtrace", types.BOOL, "pbal logs every fault with its place"),
        Meaningless("nice_level", _SIGNED, "who starts pbal says it: nice -n VALUE pbal, or Nice=VALUE in a systemd unit"),
    )
}
"""Parameters of SERVER without meaning here."""

XS_MESSAGE = "XS has no meaning here: pbal has one parser of heads, and no modules to switch"

_OWN = "write it as a pbal plugin: pbal plugin new"

ROLES: dict[str, str] = {"echo": "echoservice"}
"""Values of SET role that a plugin brings, and which."""


@dataclass(frozen=True, slots=True)
class Unneeded:
    """A hook of Perlbal's that is not here, and what a plugin does in its place."""

    name: str
    why: str


HOOKS: dict[str, Unneeded] = {
    row.name: row
    for row in (
        Unneeded(
            "backend_write_verify", "verify_backend and the checks of a pool (POOL SET check) probe nodes, with a path of your choice"
        ),
        Unneeded("backend_readable_verify", "verify_backend and the checks of a pool (POOL SET check) probe nodes, and read the answers"),
        Unneeded("reproxy_response_received", "modify_response_headers runs for the response of a URL, too"),
        Unneeded("reproxy_fh_finished", "pbal closes what it opened; a plugin hears of the end of a request in `end`"),
        Unneeded("put_writeout", "handle_put has the whole body, and may take the request"),
        Unneeded("manage_command", "a plugin adds statements with `commands` and a grammar fragment"),
        Unneeded("pre_event_loop", "a plugin's method open() runs when the loop does"),
    )
}
"""Hooks without meaning here; those that pbal has stand in model/hooks.py, under the same names."""


COMMANDS: tuple[str, ...] = (
    "access", "patterns", "perlhandler", "perlrequire", "recent", "redirect", "stats", "throttle",  # of plugins
    "aio", "backends", "crash", "create", "default", "disable", "dumpconfig", "enable", "fd", "gladiator", "header", "help", "include",
    "leaks", "load", "mime", "node", "nodes", "noverify", "obj", "pending", "plugins", "pool", "proc", "prof", "queues", "quit", "reload",
    "reproxy_state", "server", "set", "show", "shutdown", "socks", "state", "states", "track", "unload", "uptime", "use", "varsize",
    "verbose", "version", "vhost", "vpath", "xs",
)  # fmt: skip
"""Words with which statements of Perlbal begin, in files and at the console."""


def _foreign(kind: str, words: str, instead: str) -> Foreign:
    return Foreign(kind, re.compile(words, re.IGNORECASE), instead)


FOREIGN: tuple[Foreign, ...] = (
    _foreign("long polls", r"poll|comet|push|stream|chat|websocket", "LOAD poll parks requests and answers them when a message comes"),
    _foreign("socket hand-over", r"starter|socket|hand_?over|hand_?off|restart|takeover|passfd|sendfd",
             "systemd can hand listening sockets over, and the poll plugin holds waiting clients by itself (LOAD poll)"),
    _foreign("sticky sessions", r"sticky|affinit|session|persist",
             "SET sticky = NAME of a pool binds each client to a node with a cookie; balance_method = hash brings like to like"),
    _foreign("trusted headers", r"trust|forwardedfor|xff|realip|real_?ip|remote_?ip|remote_?addr|upstream",
             "SET trusted_upstream_proxies says whose X-Forwarded fields are believed; HEADER name REMOVE takes others away"),
    _foreign("fallback on 404", r"fallback|fail_?over|404|not_?found|missing|lazy|backup|retry",
             "SET fallback_pool = POOL and SET fallback_on = 404 failure ask a second pool"),
    _foreign("header rules", r"header|cookie|expires|cache_?control|cors",
             "HEADER name REQUEST and HEADER name RESPONSE set, add and remove fields, of some requests with WHEN"),
    _foreign("routing by method", r"method|verb|rest|dav|readonly|read_?write",
             "ROUTE name TO POOL WHEN method POST,PUT sends some requests to another pool"),
    _foreign("routing by host", r"host|domain|site|tenant",
             "LOAD vhosts: VHOST *.example.com = service chooses the service by the host; ROUTE name TO POOL WHEN host"
             " *.example.com chooses the pool"),
    _foreign("routing by path", r"path|url|uri|rout|prefix|dir|location|map|group|rewrite",
             "LOAD vpaths: VPATH ^/path = service chooses the service by the path; ROUTE name TO POOL WHEN path ^/path chooses the pool,"
             " and REWRITE changes the path"),
    _foreign("TLS", r"ssl|tls|https|cert", "enable_ssl, ssl_cert_file, https_redirect and send_backend_proto are in the core"),
    _foreign("log", r"log|track|audit", "SET access_log = FILE writes a line for each request"),
    _foreign("static files", r"static|docroot|file", "a service of the role web_server answers with files: SET docroot = FOLDER"),
    _foreign("monitoring", r"stat|metric|monitor|status|health|debug", "the console tells it: show counters, show health, nodes, queues"),
    _foreign("application", r"psgi|plack|cgi|app|handler", "run the application as a server of its own, and name it with POOL ADD"),
    _foreign("limits", r"limit|throttle|flood", _LIMIT),
    _foreign("access rules", r"access|acl|auth|login|deny|block|ban",
             "write a pbal plugin with start_http_request, which may answer 403: pbal plugin new"),
)  # fmt: skip
"""Kinds of plugins that others wrote, the most particular first. A name is of the first kind that it fits."""


def replacement(plugin: str) -> str:
    """What does the work of a plugin that pbal does not know, by what its name says."""
    for kind in FOREIGN:
        if kind.name.search(plugin):
            return kind.instead + (f" {plugin.lower()}" if kind.instead.endswith("pbal plugin new") else "")
    return f"{_OWN} {plugin.lower()}"


def told(name: str) -> str:
    """What there is to say of a name of Perlbal's that pbal has not; '' of any other."""
    folded = name.lower()
    if folded in SERVICE:
        return SERVICE[folded].message
    if folded in HOOKS:
        return f"there is no hook '{name}': {HOOKS[folded].why}"
    return MEANINGLESS[folded].message if folded in MEANINGLESS else ""
