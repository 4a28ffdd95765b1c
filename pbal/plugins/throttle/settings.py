"""The tunables and counters of throttle, and its lists."""

import re
from functools import partial
from pathlib import Path
from typing import Final

from pbal.api import (
    BOOL,
    DURATION,
    ENDPOINT,
    INT,
    NETWORKS,
    PATH,
    REGEX,
    WORDS,
    ConfigError,
    Counter,
    Endpoint,
    Network,
    NetworkTable,
    Tunable,
    Type,
    enum,
)

ROLES: Final = frozenset({"reverse_proxy", "web_server"})
EVENTS: Final = ("ban", "unban", "whitelisted", "blacklisted", "concurrent", "throttled", "banned")
LARGEST: Final = 32 << 20
"""Octets of a list: a million networks."""
_NONE: Final = ("none", "-", "undef")
_MANUAL: Final = "Perlbal manual, Throttle"


def _parse_file(text: str) -> Path | None:
    return None if text.lower() in _NONE else PATH.parse(text)


FILE: Type[Path | None] = Type(
    "path|none",
    _parse_file,
    lambda value: "none" if value is None else PATH.render(value),
    placed=lambda text, folder: text if text.lower() in _NONE else PATH.place(text, folder),
)


def _parse_events(text: str) -> tuple[str, ...]:
    found = tuple(word.lower() for word in WORDS.parse(text))
    for word in found or ("",):
        if word not in (*EVENTS, "all", "none"):
            raise ValueError(f"expected some of {', '.join(EVENTS)}, or all or none, found {word!r}")
    return found


LOGGED: Type[tuple[str, ...]] = Type("events", _parse_events, " ".join, (*EVENTS, "all", "none"))


def _parse_servers(text: str) -> tuple[Endpoint, ...]:
    words = WORDS.parse(text)
    if not words or any(word.startswith("unix:") for word in words):
        raise ValueError(f"expected servers such as 10.0.0.1:11211, or none, found {text!r}")
    return tuple(ENDPOINT.parse(word if ":" in word else f"{word}:11211") for word in words if word.lower() != "none")


SERVERS: Type[tuple[Endpoint, ...]] = Type("nodes", _parse_servers, lambda value: " ".join(map(str, value)) or "none")


def _parse_name(text: str) -> str:
    if re.fullmatch(r"[!-~]{1,100}", text) is None:
        raise ValueError(f"expected 1 to 100 visible characters, found {text!r}")
    return text


NAME: Type[str] = Type("word", _parse_name)


def read_list(tunable: str, path: Path) -> NetworkTable:
    """The networks of a list. It reads the disk. Raises: ConfigError."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{tunable}: {path} is longer than {LARGEST >> 20} MB", about=tunable)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{tunable}: {path}: {why}", about=tunable) from None
    networks: list[Network] = []
    for number, line in enumerate(lines, 1):
        said = line.partition("#")[0].strip()
        try:
            networks += NETWORKS.parse(said) if said else ()
        except ValueError as error:
            raise ConfigError(f"{tunable}: {path}:{number}: {error}", about=tunable) from None
    if not networks:
        raise ConfigError(f"{tunable}: {path} has no addresses: `none` is no list", about=tunable)
    return NetworkTable(networks)


def _list(name: str, summary: str) -> Tunable:
    return Tunable(name, FILE, "none", summary, ROLES, source=_MANUAL, reads=partial(read_list, name))


TUNABLES: Final = (
    _list("whitelist_file", "A file of addresses and networks that are always served."),
    _list("blacklist_file", "A file of addresses and networks that blacklist_action is for."),
    Tunable(
        "default_action",
        enum("allow", "throttle"),
        "throttle",
        "What becomes of addresses that are on no list.",
        ROLES,
        source=_MANUAL,
    ),
    Tunable(
        "blacklist_action",
        enum("deny", "throttle"),
        "deny",
        "What becomes of addresses in blacklist_file: 403, or they are throttled.",
        ROLES,
        source=_MANUAL,
    ),
    Tunable(
        "path_regex",
        REGEX,
        summary="Only requests in whose path and query it is found are throttled. Unset: all.",
        roles=ROLES,
        source="differs: it sees the path with its escapes decoded",
    ),
    Tunable(
        "method_regex", REGEX, summary="Only requests in whose method it is found are throttled. Unset: all.", roles=ROLES, source=_MANUAL
    ),
    Tunable("log_events", LOGGED, "all", "What the log tells.", ROLES, source=_MANUAL),
    Tunable(
        "log_only", BOOL, "off", "Count and log, and serve everybody.", ROLES, source="differs: nobody is banned, and no connection is cut"
    ),
    Tunable(
        "throttle_threshold_seconds",
        DURATION,
        "60s",
        "A request that comes sooner after the client's last one is throttled.",
        ROLES,
        "seconds",
        source=_MANUAL,
    ),
    Tunable("initial_delay", DURATION, "3s", "How long the first one waits; the next one twice as long.", ROLES, "seconds", source=_MANUAL),
    Tunable(
        "max_delay", DURATION, "300s", "The longest delay.", ROLES, "seconds", source="differs: one above taken_timeout is answered 429"
    ),
    Tunable(
        "max_concurrent",
        INT,
        "2",
        "Most requests of a client at once. 0: no limit.",
        ROLES,
        source="differs: more are answered 429, not 403",
    ),
    Tunable("ban_threshold", INT, "0", "Throttled requests in a row after which a client is banned. 0: never.", ROLES, source=_MANUAL),
    Tunable("ban_expiration", DURATION, "60s", "How long a ban lasts.", ROLES, "seconds", source="differs: the answer is 403"),
    Tunable("memcached_servers", SERVERS, "none", "Where several pbals count together: host:port, ...", ROLES, source=_MANUAL),
    Tunable("memcached_async_clients", INT, "10", "Connections to each of them.", ROLES, minimum="1", maximum="1000", source=_MANUAL),
    Tunable("instance_name", NAME, "Throttle", "What the keys in memcached begin with.", ROLES, source=_MANUAL),
)

COUNTERS: Final = (
    Counter("throttle_delayed", "Requests that the plugin throttle let wait."),
    Counter("throttle_refused", "Requests answered 429 by throttle: too many at once, or a delay too long to wait for."),
    Counter("throttle_denied", "Requests answered 403 by throttle: the client is banned or blacklisted."),
    Counter("throttle_bans", "Bans that throttle has spoken."),
    Counter("throttle_only_logged", "Requests that throttle would have delayed or refused, but for log_only."),
    Counter("throttle_forgotten", "Clients that throttle forgot before their time, because 50,000 others were seen since."),
    Counter("throttle_store_errors", "Times a server in memcached_servers failed or did not answer throttle in time."),
)
