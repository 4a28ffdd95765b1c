"""Tunables: what SET accepts, with type, default, bounds and provenance. Here are those that every service, or every service that
answers HTTP, has; those of one role stand with it (schema/roles.py), those of a plugin with the plugin.

A row is read by the SET check, DEFAULT, `help`, `show tunables`, `dumpconfig`, completion and the manual;
nobody else writes a default or a unit down.

`source` says whose meaning a row has: "Perlbal service parameters" where it is Perlbal's, "differs: ..."
where the name is Perlbal's but the meaning or the default is not, "pbal" where Perlbal had nothing of the
kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pbal.schema import types
from pbal.schema.said import Said, shown


class Applies(Enum):
    """When a live change takes hold."""

    NOW = "now"
    NEXT_CONNECTION = "next connection"
    NEXT_ENABLE = "next enable"
    START = "start"


@dataclass(frozen=True, slots=True)
class Tunable:
    """One declared tunable. The default and the bounds are texts that its type parses; None as the default means unset."""

    name: str
    type: types.Type[Any]
    default: str | None = None
    summary: str = ""
    roles: frozenset[str] = frozenset()  # empty: every role
    unit: str = ""
    minimum: str | None = None
    maximum: str | None = None
    applies: Applies = Applies.NOW
    source: str = ""
    perlbal: str | None = None
    """Perlbal's default, or what comes nearest to how it behaves. `SERVER compatible = perlbal` puts it in force."""
    floor: str | None = None
    """A smaller value is raised to this one; `remark` says so."""
    each: types.Type[Any] | None = None
    """Of a tunable of the process that may also be said of one thing alone, in parentheses behind its name: the type of that."""
    reads: Callable[[Any], Any] | None = None
    """Of a tunable that names a file: what reads it, off the loop, and returns what Service.reading() gives. It raises ConfigError."""

    def parse(self, text: str) -> Any:
        """The value of `text`, checked against type and bounds. Raises: ValueError for the operator."""
        value = self.type.proven(text)
        if self.floor is not None:
            value = max(value, self.type.parse(self.floor))
        if self.minimum is not None and value < self.type.parse(self.minimum):
            raise ValueError(f"expected {self.minimum} or more for {self.name}, found {shown(text)!r}")
        if self.maximum is not None and value > self.type.parse(self.maximum):
            raise ValueError(f"expected {self.maximum} or less for {self.name}, found {shown(text)!r}")
        return value

    def remark(self, text: str) -> str:
        """What is odd about a text that `parse` takes, '' if nothing is."""
        if self.floor is not None and self.type.parse(text) < self.type.parse(self.floor):
            return f"{self.name}: {shown(text)} is too little, {self.floor} is used"
        odd = self.type.remark(text)
        if odd and isinstance(text, Said):
            odd = f"what {text.written} stands for is odd"
        return f"{self.name}: {odd}" if odd else ""

    def canonical(self, text: str) -> str:
        """The one text for whatever `text` means. Raises: ValueError for the operator."""
        return self.type.render(self.parse(text))

    def default_value(self) -> Any:
        """The parsed default, None where the tunable is unset by default."""
        return None if self.default is None else self.type.parse(self.default)

    def fits(self, role: str) -> bool:
        """Whether a service of `role` has this tunable."""
        return not self.roles or role in self.roles


_PERLBAL = "Perlbal service parameters"

COMMON: tuple[Tunable, ...] = (
    Tunable(
        "listen",
        types.LISTEN,
        summary="Address and port to listen on. Without it, requests come only from a selector.",
        source="differs: [IPv6]:port, names and Unix sockets work too; a port alone means every address",
    ),
    Tunable(
        "socket_mode",
        types.MODE,
        default="0660",
        summary="Permissions of the Unix socket that the service listens on. Who may write to it may connect.",
        source="pbal",
    ),
    Tunable(
        "socket_group",
        types.GROUP,
        summary="Group of the Unix socket that the service listens on.",
        source="pbal",
    ),
    Tunable(
        "plugins",
        types.WORDS,
        default="",
        summary="Plugins that this service runs. Their hooks run in this order, those that guard (accesscontrol, basic_auth) first.",
        source="differs: an unknown name refuses the whole SET; plugins that guard come first",
    ),
    Tunable(
        "plugins_before_guards",
        types.WORDS,
        default="",
        summary="Plugins of the service whose hooks run before those that guard: they answer also who is to be kept out.",
        source="pbal",
    ),
    Tunable(
        "idle_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="How long a client may be silent during a request. 0: no limit.",
        source="differs: exact, not checked every 5 s; the wait for a backend has its own limits",
    ),
    Tunable(
        "client_keepalive",
        types.DURATION,
        default="60s",
        unit="seconds",
        maximum="9h",
        applies=Applies.NEXT_CONNECTION,
        summary="After this silence the kernel checks whether the client is still there (3 probes, 10 s apart). 0: never.",
        source="pbal",
    ),
    Tunable(
        "client_sndbuf_size",
        types.SIZE,
        default="0",
        unit="bytes",
        maximum="1g",
        applies=Applies.NEXT_CONNECTION,
        summary="Size of the kernel's buffer for what is sent to a client over TCP; the system may bound it, and uses twice as much. 0: the"
        " kernel chooses, and changes, the size.",
        source=_PERLBAL,
    ),
)
"""Of every service."""

OF_SOCKET: frozenset[str] = frozenset({"socket_mode", "socket_group", "client_keepalive", "client_sndbuf_size"})
"""What the listening socket itself has."""

ACCESS_LOG: tuple[Tunable, ...] = (
    Tunable(
        "access_log",
        types.LOG,
        default="off",
        summary="Where the access log goes: a file, stdout, syslog (as local7.info), or off. A selector's log has the requests of services"
        " that have no log of their own.",
        source="pbal",
    ),
    Tunable(
        "access_log_format",
        types.LOG_FORM,
        default="json",
        summary="common, combined, json, or a text with fields such as `$$client $$status`. See ACCESS LOG.",
        source="pbal",
    ),
    Tunable(
        "access_log_query",
        types.BOOL,
        default="on",
        summary="Log the query of a request and of its Referer, and show it on consoles. Set it to off if queries hold credentials.",
        source="pbal",
    ),
    Tunable(
        "access_log_sample",
        types.INT,
        default="1",
        unit="requests",
        minimum="1",
        summary="Log one request of this many. pbal logs every request that ended badly, and every answer of 500 and above.",
        source="pbal",
    ),
    Tunable(
        "access_log_rotate_size",
        types.SIZE,
        default="0",
        unit="bytes",
        summary="Rotate the file when it is larger than this. 0: never. Where services share a file, the smallest size counts.",
        source="pbal",
    ),
    Tunable(
        "access_log_rotate_age",
        types.DURATION,
        default="0",
        unit="seconds",
        summary="Rotate the file at each whole multiple of this time, counted from midnight UTC for 24h and its parts. 0: never. Where"
        " services share a file, the smallest time counts.",
        source="pbal",
    ),
    Tunable(
        "access_log_rotate_keep",
        types.INT,
        default="7",
        unit="files",
        maximum="1000",
        summary="How many rotated files to keep, as FILE.1, FILE.2 and so on. Where services share a file, the largest number counts.",
        source="pbal",
    ),
    Tunable(
        "request_id",
        types.enum("auto", "on", "off"),
        default="auto",
        summary="Give each request an id. Nodes see it in X-Request-Id, the access log and pbal's own error pages show it. pbal takes the"
        " id that a trusted peer sent (see trusted_upstream_proxies), and replaces any other. auto: on where access_log is on.",
        source="pbal",
    ),
    Tunable(
        "traceparent",
        types.enum("pass", "begin"),
        default="pass",
        summary="What to do with W3C Trace Context. pass: send on what came. begin: also start a trace, with the sampled flag set, for a"
        " request that has no valid traceparent.",
        source="pbal",
    ),
)
"""Of every service that answers HTTP: its access log, and what its requests are called."""

LOGGING: frozenset[str] = frozenset(tunable.name for tunable in ACCESS_LOG) | {"role"}
"""What open_log() looks at."""

HTTP: tuple[Tunable, ...] = (
    Tunable(
        "always_trusted",
        types.BOOL,
        default="off",
        summary="Believe the X-Forwarded headers of every peer.",
        source=_PERLBAL,
    ),
    Tunable(
        "trusted_upstream_proxies",
        types.NETWORKS,
        default="",
        summary="Networks of the peers whose X-Forwarded headers pbal believes.",
        source=_PERLBAL,
    ),
    Tunable(
        "persist_client",
        types.BOOL,
        default="on",
        perlbal="off",
        applies=Applies.NEXT_CONNECTION,
        summary="Keep client connections open between requests.",
        source="differs: the default is on, as in HTTP/1.1 (RFC 9112 §9.3)",
    ),
    Tunable(
        "persist_client_idle_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="How long a client connection may be silent between two requests. 0: no limit.",
        source=_PERLBAL,
    ),
    Tunable(
        "header_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="How long a client may take to send the whole request head; then 408. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "server_tokens",
        types.BOOL,
        default="on",
        summary="Name pbal in the Server field of responses that pbal itself makes.",
        source=_PERLBAL,
    ),
    Tunable(
        "max_request_head",
        types.SIZE,
        default="64k",
        perlbal="100k",
        unit="bytes",
        minimum="1k",
        maximum="16m",
        applies=Applies.NEXT_CONNECTION,
        summary="Longest request head. A longer one is answered 431.",
        source="pbal (Perlbal: 100 KiB, fixed)",
    ),
    Tunable(
        "max_request_fields",
        types.INT,
        default="100",
        perlbal="10000",
        unit="fields",
        minimum="1",
        maximum="10000",
        applies=Applies.NEXT_CONNECTION,
        summary="Most fields in a request head. More are answered 431.",
        source="pbal",
    ),
    Tunable(
        "max_request_line",
        types.SIZE,
        default="8k",
        perlbal="100k",
        unit="bytes",
        minimum="64",
        maximum="16m",
        applies=Applies.NEXT_CONNECTION,
        summary="Longest request line. A longer one is answered 414.",
        source="pbal (RFC 9112 §3 recommends at least 8000 octets)",
    ),
    Tunable(
        "max_body",
        types.SIZE,
        default="200m",
        perlbal="0",
        unit="bytes",
        summary="Longest request body. A longer one is answered 413. 0: no limit.",
        source="pbal (Perlbal: max_chunked_request_size, chunked bodies only)",
    ),
    Tunable(
        "header_underscores",
        types.enum("colliding", "drop", "refuse"),
        default="colliding",
        summary="What to do with header fields that have `_` in their name, which CGI reads as `-`. colliding: drop a field if its name"
        " collides with one that pbal or a HEADER statement uses. drop: drop every such field. refuse: answer the request with 400.",
        source="pbal",
    ),
    Tunable(
        "plugin_error_limit",
        types.INT,
        default="0",
        minimum="0",
        unit="faults",
        summary="Faults of a plugin in a minute after which it is taken out of the chain. A plugin that guards is not: then the service"
        " answers 503. RELOAD brings it back. 0: never.",
        source="pbal",
    ),
    Tunable(
        "taken_timeout",
        types.DURATION,
        default="60s",
        unit="seconds",
        summary="How long a plugin may take to answer a request that it took; then 504. Parked polls are exempt. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "half_close_timeout",
        types.DURATION,
        default="1s",
        unit="seconds",
        summary="How long pbal waits for the answer after a client has closed its sending side, which a client that leaves does too."
        " 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "buffer_size",
        types.SIZE,
        default="256k",
        unit="bytes",
        floor="4k",
        maximum="1g",
        applies=Applies.NEXT_CONNECTION,
        summary="pbal pauses a sender when this many of its bytes wait to be sent on, in either direction.",
        source="differs: holds in both directions; less than 4k is raised to 4k, with a warning",
    ),
    *ACCESS_LOG,
)
"""Of every service that answers HTTP."""

SERVER: tuple[Tunable, ...] = (
    Tunable(
        "compatible",
        types.enum("none", "perlbal"),
        default="none",
        summary="perlbal: tunables whose default differs from Perlbal's have Perlbal's. What SET and DEFAULT say counts for more. It has"
        " to stand before the first CREATE SERVICE.",
        source="pbal",
    ),
    Tunable(
        "plugin_path",
        types.DIRECTORY,
        summary="Directory in which LOAD looks for plugins that do not come with pbal.",
        source="pbal",
    ),
    Tunable(
        "plugin_autoreload",
        types.BOOL,
        default="off",
        summary="Whether a plugin is reloaded when its files change. It is for people who write plugins: pbal looks once a second.",
        source="pbal",
    ),
    Tunable(
        "graceful_timeout",
        types.DURATION,
        default="30s",
        perlbal="0",
        unit="seconds",
        summary="How long requests in progress may take to finish at a graceful shutdown. 0: no limit.",
        source="differs: Perlbal waits for ever if no time is given",
    ),
    Tunable(
        "drain_delay",
        types.DURATION,
        default="0s",
        unit="seconds",
        summary="How long a graceful shutdown goes on serving as before, with `/readyz` failing, before the listeners close: the time"
        " that a load balancer in front takes to send its requests elsewhere.",
        source="pbal",
    ),
    Tunable(
        "pidfile",
        types.PATH,
        applies=Applies.START,
        summary="File into which pbal writes its process id when every service listens. pbal removes it when it ends. `--pidfile` counts"
        " for more.",
        source="differs: it is removed at every end, not at a graceful one alone, and a second pbal with the same file does not start",
    ),
    Tunable(
        "user",
        types.USER,
        applies=Applies.START,
        summary="User that pbal becomes when it has bound its addresses. pbal has to be started as root, or as that user.",
        source="pbal",
    ),
    Tunable(
        "group",
        types.GROUP,
        applies=Applies.START,
        summary="Group that pbal takes together with `user`. Default: the user's own, and those that the user is a member of.",
        source="pbal",
    ),
    Tunable(
        "log_level",
        types.enum("debug", "info", "warning", "error"),
        default="info",
        summary="Least severe message that is logged.",
        source="pbal",
    ),
    Tunable(
        "log_format",
        types.enum("text", "json"),
        default="text",
        summary="Form of the messages that pbal logs: text, or json with one object for each message.",
        source="pbal",
    ),
    Tunable(
        "log_to",
        types.enum("stderr", "syslog"),
        default="stderr",
        summary="Where pbal logs its messages: standard error, or syslog (as daemon). In systemd's journal, text has its level.",
        source="pbal",
    ),
    Tunable(
        "max_spool",
        types.SIZE,
        default="1g",
        perlbal="0",
        unit="bytes",
        summary="Most disk that the request bodies of all services together may take (see buffer_uploads). If a body has no room, its"
        " request is answered 503. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "max_body_memory",
        types.SIZE,
        default="64m",
        perlbal="0",
        unit="bytes",
        summary="Most memory that the request bodies of all services together may take while they are held (see buffer_backend_connect)."
        " When it is full, bodies go to a node as they come, or to disk if a plugin wants them. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "file_cache_files",
        types.INT,
        default="4096",
        perlbal="0",
        unit="files",
        maximum="1000000",
        summary="Most files that all web servers together keep, so that who asks for one again has it at once. Files of at most 1 MB are"
        " kept in memory. Of larger ones the descriptor is kept: at most 1024, an eighth of `max_connections`, and for 10 s after the last"
        " request. 0: none.",
        source="pbal",
    ),
    Tunable(
        "file_cache_memory",
        types.SIZE,
        default="32m",
        unit="bytes",
        maximum="64g",
        summary="Most memory for those small files; what slow clients still have of files that had to go comes on top, as much again at"
        " most. A file that takes more than a quarter of it is not kept in memory.",
        source="pbal",
    ),
    Tunable(
        "file_recheck",
        types.DURATION,
        default="1s",
        unit="seconds",
        maximum="1h",
        summary="How long a file that is kept is sent as it is before pbal looks whether it has changed. 0: files are not kept. PUT and"
        " DELETE are seen at once.",
        source="pbal",
    ),
    Tunable(
        "max_connections",
        types.INT,
        unit="descriptors",
        minimum="128",
        summary="Most descriptors that the process may have open. pbal keeps 64 of them for nodes, files and the console.",
        source="differs: if the system refuses the limit, the answer is an error and not also OK",
    ),
    Tunable(
        "max_reproxy_connections",
        types.INT,
        default="0",
        unit="connections",
        maximum="100000",
        summary="Most connections to one server that X-REPROXY-URL names; further requests wait. 0: no limit."
        " `SERVER max_reproxy_connections(HOST:PORT) = NUMBER` says it of one server, as the URLs name it.",
        source="differs: it has no sign",
        each=types.ENDPOINT,
    ),
)
