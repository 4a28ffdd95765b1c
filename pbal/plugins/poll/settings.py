"""The tunables and counters of poll, and what a service's values mean together."""

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbal.api import (
    BOOL,
    DURATION,
    ENDPOINT,
    INT,
    NETWORKS,
    ORIGINS,
    PATH,
    REGEX,
    SIZE,
    TEXT,
    WORDS,
    ConfigError,
    Counter,
    Networks,
    Searches,
    Service,
    Tunable,
    Type,
    enum,
)

from .formats import FORMATS
from .framing import FRAMINGS
from .grants import AUTH, TOKEN_SOURCES, AuthChoice
from .memcached import Place, SocketPath
from .names import BadName, Source, key_for

ROLES = frozenset({"reverse_proxy", "web_server"})


LONGEST_SOCKET_PATH = 107
"""Octets (sun_path of Linux, with its NUL)."""


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """poll_store: no places is the memory store."""

    places: tuple[Place, ...] = ()

    def __str__(self) -> str:
        return " ".join(("memcached", *map(str, self.places))) if self.places else "memory"


def _parse_place(word: str) -> Place:
    if word.startswith("unix:"):
        path = word[5:]
        if not path or len(path.encode()) > LONGEST_SOCKET_PATH:
            raise ValueError(f"expected unix: and the path of a socket, of at most {LONGEST_SOCKET_PATH} bytes, found {word!r}")
        return SocketPath(path)
    return ENDPOINT.parse(word if ":" in word else f"{word}:11211")


def _parse_store(text: str) -> StoreChoice:
    words = text.split()
    if words[:1] == ["memory"] and len(words) == 1:
        return StoreChoice()
    if words[:1] == ["memcached"] and len(words) > 1:
        places = tuple(_parse_place(word) for word in words[1:])
        if len(set(places)) != len(places):
            raise ValueError("a memcached is named twice")
        return StoreChoice(places)
    raise ValueError(f"expected memory, or memcached HOST:PORT ... or unix:PATH, found {text!r}")


def _place_sockets(text: str, folder: Path) -> str:
    """Relative paths of sockets begin at the folder of the file that said them."""
    return re.sub(r"(?<!\S)unix:(?=[^/\s])", lambda found: f"{found[0]}{folder}/", text)


@dataclass(frozen=True, slots=True)
class Auth:
    """What poll_store_auth says. `secret`: user, space, password, as memcached wants it; never shown."""

    path: Path
    secret: bytes
    readable: bool
    """Others than its owner and group may read the file."""

    @classmethod
    def read(cls, path: Path) -> "Auth":
        """The first line of a file, user:password as in memcached's own (-Y). Raises: ConfigError."""
        try:
            with path.open("rb") as file:
                line = file.readline(1024).strip(b"\r\n")
                readable = bool(stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH)
        except OSError as error:
            raise ConfigError(f"poll_store_auth: {path}: {error.strerror}", about="poll_store_auth") from None
        user, colon, password = line.partition(b":")
        if not (user and colon and password) or re.search(rb"[\x00-\x20\x7f]", line):
            raise ConfigError(f"poll_store_auth: the first line of {path} is not user:password without spaces", about="poll_store_auth")
        return cls(path, user + b" " + password, readable)

    def __repr__(self) -> str:
        return f"Auth({str(self.path)!r})"


def _parse_sources(text: str) -> tuple[Source, ...]:
    return tuple(Source(word) for word in WORDS.parse(text))


def _parse_publish(text: str) -> re.Pattern[bytes] | None:
    return None if text.lower() == "off" else REGEX.parse(text)


def _parse_path_or_off(text: str) -> Path | None:
    return None if text.lower() == "off" else PATH.parse(text)


def _place_path_or_off(text: str, folder: Path) -> str:
    return text if text.lower() == "off" else PATH.placed(text, folder)


def _parse_socket_may(text: str) -> tuple[str, ...]:
    words = () if text.lower() == "off" else tuple(dict.fromkeys(WORDS.parse(text.lower())))
    if not set(words) <= {"publish", "subscribe"}:
        raise ValueError(f"expected off, or publish, subscribe or both, found {text!r}")
    return words


# In quotes: typing would remember StoreChoice and Source, and with them each generation of this module.
STORE: "Type[StoreChoice]" = Type("store", _parse_store, str, ("memory", "memcached"), _place_sockets)
SOURCES: "Type[tuple[Source, ...]]" = Type("sources", _parse_sources, lambda value: " ".join(map(str, value)))
PATH_OR_OFF: Type[Path | None] = Type(
    "path or off", _parse_path_or_off, lambda value: "off" if value is None else str(value), placed=_place_path_or_off
)
REGEX_OR_OFF: Type[Any] = Type("regex or off", _parse_publish, lambda value: "off" if value is None else REGEX.render(value), odd=REGEX.odd)
SOCKET_MAY: Type[tuple[str, ...]] = Type(
    "words or off", _parse_socket_may, lambda value: " ".join(value) or "off", ("publish", "subscribe")
)


def _tunable(name: str, type_: Type[Any], default: str | None, summary: str, **more: Any) -> Tunable:
    return Tunable(name, type_, default=default, summary=summary, roles=ROLES, source="pbal", **more)


TUNABLES: tuple[Tunable, ...] = (
    _tunable("poll_uri", REGEX, None, "A request is a poll if this regular expression matches somewhere in its path. Required."),
    _tunable("poll_methods", WORDS, "GET POST", "Methods of a poll. Other methods on that path are answered 405."),
    _tunable("poll_queue", SOURCES, "uri:queue", "Where queue names come from: uri:GROUP query:NAME header:NAME"
             " cookie:NAME xml:PATH json:PATH."
             " pbal uses the first source that gives a name."),
    _tunable("poll_max_body", SIZE, "64k", "Longest body of a poll. A longer one is answered 413.", unit="bytes"),
    _tunable("poll_store", STORE, "memory", "Where messages wait: memory, or memcached HOST:PORT ... A memcached on a unix socket is"
             " unix:PATH."),
    _tunable("poll_store_auth", PATH_OR_OFF, "off", "With memcached -Y: a file whose first line is user:password. pbal reads it when the"
             " service is enabled and when this is set."),
    _tunable("poll_key_prefix", TEXT, "poll:", "The key in the store is this prefix and the name of the queue."),
    _tunable("poll_interval", DURATION, "1s", "Time between two sweeps of the store.", unit="seconds", minimum="50ms"),
    _tunable("poll_batch", INT, "500", "Most keys in one get of a sweep.", unit="keys", minimum="1", maximum="5000"),
    _tunable("poll_watch", BOOL, "on", "With memcached: follow its `watch mutations` stream too."),
    _tunable("poll_timeout", DURATION, "25s", "A poll gets the empty answer after this time, or up to a tenth earlier, so that clients"
             " do not all come back together.",
             unit="seconds", minimum="100ms"),
    _tunable("poll_keep", enum("taken", "confirmed", "ttl"), "taken", "When a message leaves its queue. taken: when it is delivered."
             " confirmed: when a later poll says, with a position, that it has it. ttl: when it is poll_ttl old, or up to a quarter more."),
    _tunable("poll_first", enum("all", "new"), "all", "With poll_keep = confirmed or ttl: what a reader without a position gets."
             " all: every message that is kept. new: those that come from now on."),
    _tunable("poll_position", SOURCES, "query:position header:Last-Event-ID header:Poll-Position",
             "Where a reader's position comes from, as poll_queue. pbal uses the first source that gives one."),
    _tunable("poll_bad_position", enum("refuse", "all"), "refuse", "What a reader gets whose position is not one of pbal's, or one of"
             " other queues. refuse: 400. all: what a reader without a position gets."),
    _tunable("poll_etag", BOOL, "off", "The position stands in an ETag field of the answer too."),
    _tunable("poll_duplicate", enum("newest", "oldest", "all"), None, "What happens when a second poll comes for a queue."
             " newest: the earlier poll is told that it was superseded. oldest: the later poll gets 409."
             " all: both stay, and every message goes to both. Default: newest; all where poll_keep is ttl."),
    _tunable("poll_format", enum(*FORMATS), "raw", "Format of answers; see ANSWERS in pbal-poll(7)."),
    _tunable("poll_framing", enum(*FRAMINGS), "newline", "How a stored value separates messages."),
    _tunable("poll_ttl", DURATION, "300s", "How long messages wait for a poll; then pbal or memcached drops the queue.",
             unit="seconds", minimum="1s", maximum="720h"),
    _tunable("poll_max_queue", SIZE, "256k", "Most bytes in one queue. pbal drops the oldest whole messages first, and counts them.",
             minimum="1", unit="bytes"),
    _tunable("poll_memory_limit", SIZE, "64m", "With the memory store: most bytes of the names and messages of all queues together (each"
             " queue needs about 250 more). pbal drops the queue that has been without a new message the longest, and counts it.",
             minimum="1", unit="bytes"),
    _tunable("poll_max_parked", INT, "0", "Most parked polls. One more is answered 503. 0: no limit but descriptors.", unit="polls"),
    _tunable("poll_publish_uri", REGEX_OR_OFF, "off",
             "A POST whose path matches this regular expression appends its body to the queue, and the queue's poll is answered."),
    _tunable("poll_publish_from", NETWORKS, "127.0.0.0/8 ::1", "Networks of the clients that may publish. Others are answered 403."),
    _tunable("poll_store_timeout", DURATION, "2s", "Longest time for a call to the store; a call that takes longer has failed.",
             unit="seconds", minimum="10ms"),
    _tunable("poll_presence", BOOL, "off", "A queue is present while somebody waits for it or left less than poll_grace ago. Joins and"
             " leaves are messages on poll_presence_queue."),
    _tunable("poll_presence_queue", TEXT, "presence", "The queue of joins and leaves. A `*` in it stands for the name of the queue that"
             " is joined or left."),
    _tunable("poll_grace", DURATION, "10s", "With poll_presence: how long after its last reader left a queue is present.",
             unit="seconds", minimum="100ms", maximum="1h"),
    _tunable("poll_socket_allow", SOCKET_MAY, "off", "What the client of a WebSocket may do besides reading: publish (if its address"
             " may, see poll_publish_from), subscribe (to any queue), or both."),
    _tunable("poll_ack_timeout", DURATION, "30s", "With poll_keep = taken: longest time in which a client's system has to acknowledge an"
             " answer. Then the connection is closed, and the messages go back in front of their queue.", unit="seconds", minimum="1s"),
    _tunable("poll_heartbeat", DURATION, "15s", "Time between two signs of life on a stream: a comment, or a ping.",
             unit="seconds", minimum="1s"),
    _tunable("poll_stream_time", DURATION, "1h", "A stream ends after this time, or up to a tenth earlier, and its client comes back.",
             unit="seconds", minimum="1s"),
    _tunable("poll_stream_buffer", SIZE, "64k", "Most bytes that wait for the client of a stream. One that reads more slowly is closed.",
             unit="bytes", minimum="1"),
    _tunable("poll_allow_origin", ORIGINS, "off", "CORS: origins whose pages may poll, or * for all."),
    _tunable("poll_auth", AUTH, "off", "Who says whether a client may poll and publish; see AUTHORIZATION in pbal-poll(7). off: nobody."
             " jwt KEYFILE: a JSON Web Token. request URI: the application, which pbal asks with a GET."),
    _tunable("poll_auth_token", TOKEN_SOURCES, "header:Authorization query:token", "Where the credential is: header:NAME query:NAME"
             " cookie:NAME. pbal uses the first that a request has. From Authorization it takes a Bearer token."),
    _tunable("poll_auth_audience", TEXT, None, "With jwt: the name by which tokens mean this service. Set, a token needs it in `aud`; not"
             " set, a token with an `aud` is refused."),
    _tunable("poll_auth_timeout", DURATION, "5s", "With request: longest time for the application's answer; then pbal answers 503.",
             unit="seconds", minimum="10ms"),
    _tunable("poll_auth_ttl", DURATION, "10s", "With request: how long pbal remembers what the application said of a credential. 0: it asks"
             " every time.", unit="seconds", maximum="1h"),
    _tunable("poll_park_rate", INT, "0", "Most polls parked in a second for one client address (of IPv6, one /64), on average. One more is"
             " answered 429. 0: no limit.", unit="polls", maximum="1000000"),
    _tunable("poll_park_burst", INT, "20", "How many polls of one address poll_park_rate lets pass at once.", unit="polls", minimum="1",
             maximum="1000000"),
    _tunable("poll_max_by_address", INT, "0", "Most polls parked at a time for one client address (of IPv6, one /64). One more is"
             " answered 429. 0: no limit.", unit="polls"),
    _tunable("poll_max_by_queue", INT, "0", "Most polls parked at a time for one queue. One more is answered 429. 0: no limit.",
             unit="polls"),
)  # fmt: skip

COUNTERS: tuple[Counter, ...] = (
    Counter("poll_parked", "Polls parked now.", gauge=True),
    Counter("poll_streams", "Streams open now; they count as parked polls, too.", gauge=True),
    Counter("poll_slow_streams", "Streams closed because their client read too slowly."),
    Counter("poll_parked_ever", "Polls that were ever parked."),
    Counter("poll_answered", "Polls answered with messages."),
    Counter("poll_empty", "Polls answered empty because their time was over or their service was disabled."),
    Counter("poll_superseded", "Polls that were told that a newer one came for their queue."),
    Counter("poll_removed", "Polls that were told that their queue was deleted."),
    Counter("poll_bad_positions", "Polls refused or ended because their position was none of pbal's, or one of other queues."),
    Counter("poll_slowed", "Polls that waited because they would have superseded one younger than a second."),
    Counter("poll_gaps", "Times a reader was told that it missed messages of a queue."),
    Counter("poll_unmarked", "Times a kept queue could not be given positions because memcached was full."),
    Counter("poll_lost_answers", "Answers with messages that did not reach their client. The messages went back in front of their queue."),
    Counter("poll_refused", "Polls answered 409 because an older one is parked for their queue."),
    Counter("poll_full", "Polls answered 503 because of poll_max_parked."),
    Counter("poll_gone", "Polls whose client left before it had its answer."),
    Counter("poll_kicked", "Parked polls that an operator closed."),
    Counter("poll_joins", "Joins that were said (poll_presence)."),
    Counter("poll_leaves", "Leaves that were said (poll_presence)."),
    Counter("poll_presence_lost", "Joins and leaves that could not be said: the store did not take them, or the name was too long."),
    Counter("poll_published", "Messages over HTTP or the console that were stored."),
    Counter("poll_publish_failed", "Messages over HTTP or the console that the store did not take."),
    Counter("poll_put_back", "Times pbal put messages back at the front of a queue because their client was gone."),
    Counter("poll_evicted", "Messages dropped because of poll_max_queue, and queues dropped because of poll_memory_limit."),
    Counter("poll_expired_queues", "Queues dropped because no poll collected their messages within poll_ttl."),
    Counter("poll_lost", "Values taken from the store that pbal could not put back because the store failed at that moment."),
    Counter("poll_misframed", "Values that were not framed as poll_framing says. They were delivered unchanged."),
    Counter("poll_sweeps", "Sweeps of the store."),
    Counter("poll_keys_swept", "Keys that sweeps asked for."),
    Counter("poll_cas_lost", "Takes that pbal tried again because a message was appended at the same moment."),
    Counter("poll_watch_lines", "Lines of watch streams about queues of pbal."),
    Counter("poll_watch_skipped", "Times a watch stream said that it skipped lines."),
    Counter("poll_store_errors", "Answers of memcached that were errors, and connections to it that failed."),
    Counter("poll_auth_refused", "Polls and publishes answered 401 or 403 because of poll_auth."),
    Counter("poll_auth_requests", "Sub-requests of poll_auth."),
    Counter("poll_auth_failed", "Sub-requests of poll_auth that decided nothing. Who waited for them was answered 503."),
    Counter("poll_auth_key_errors", "Times the key file of poll_auth was written and could not be used. The keys in use stayed."),
    Counter("poll_limited", "Polls answered 429 because of a limit by address or by queue."),
    Counter("poll_readers", "Polls and streams of a service that are parked now.", gauge=True, labels=("service",)),
    Counter("poll_queues", "Queues of a service that somebody waits for now.", gauge=True, labels=("service",)),
    Counter("poll_memory_bytes", "Names and messages that a memory store holds.", gauge=True, unit="bytes", labels=("service",)),
    Counter(
        "poll_delivery_seconds",
        "Time from a message being stored to the answer that holds it.",
        unit="seconds",
        labels=("service",),
        histogram=True,
    ),
    Counter(
        "poll_store_seconds",
        "Time from a call to memcached to the last of its answers.",
        unit="seconds",
        labels=("service", "server"),
        histogram=True,
    ),
    Counter("poll_server_errors", "Errors of one memcached, and connections to it that failed.", labels=("service", "server")),
    Counter("poll_server_up", "1 while a memcached answers, else 0.", gauge=True, labels=("service", "server")),
    Counter(
        "poll_watch_lag_seconds", "How late the watch stream of a memcached is.", gauge=True, unit="seconds", labels=("service", "server")
    ),
    Counter("poll_limits_forgotten", "Addresses whose rate pbal forgot because it watches too many at a time."),
)


POLL, PUBLISH = 0, 1


class Settings:
    """A service's poll tunables, taken apart once."""

    def __init__(self, service: Service) -> None:
        """Raises: ConfigError for values that do not fit together."""
        values = service.values
        if values.get("poll_uri") is None:
            raise ConfigError(f"service '{service.name}' runs the plugin poll and needs SET poll_uri", about=service.name)
        self.uri: re.Pattern[bytes] = values["poll_uri"]
        self.sources: tuple[Source, ...] = values["poll_queue"]
        self.publish_uri: re.Pattern[bytes] | None = values["poll_publish_uri"]
        self.publish_group = next((source.argument for source in self.sources if source.kind == "uri"), "queue")
        for source in self.sources:
            if source.kind == "uri" and source.argument not in self.uri.groupindex:
                raise ConfigError(f"poll_queue says {source}, and poll_uri has no group (?P<{source.argument}>...)", about="poll_uri")
        self.paths = Searches([self.uri] if self.publish_uri is None else [self.uri, self.publish_uri])
        """POLL and PUBLISH are places in it. Whose a path is, is asked here first, so that no client keeps a pattern busy."""
        if self.publish_uri is not None and self.publish_group not in self.publish_uri.groupindex:
            raise ConfigError(f"poll_publish_uri has no group (?P<{self.publish_group}>...)", about="poll_publish_uri")
        self.methods = tuple(method.upper().encode() for method in values["poll_methods"])
        if b"HEAD" in self.methods:
            raise ConfigError("poll_methods: the answer to HEAD has no body, its messages would be lost", about="poll_methods")
        self.max_body: int = values["poll_max_body"]
        self.store: StoreChoice = values["poll_store"]
        auth: Path | None = values["poll_store_auth"]
        self.store_auth = None if auth is None else Auth.read(auth)
        self.prefix: bytes = values["poll_key_prefix"].encode()
        if len(self.prefix) > 200 or any(octet <= 32 or octet == 127 for octet in self.prefix):
            raise ConfigError("poll_key_prefix has no spaces, and at most 200 bytes", about="poll_key_prefix")
        self.interval: float = values["poll_interval"]
        self.batch: int = values["poll_batch"]
        self.watch: bool = values["poll_watch"]
        self.timeout: float = values["poll_timeout"]
        self.keep: str = values["poll_keep"]
        self.duplicate: str = values["poll_duplicate"] or ("all" if self.keep == "ttl" else "newest")
        self.first_all: bool = values["poll_first"] == "all"
        self.position_sources: tuple[Source, ...] = values["poll_position"]
        last = [source for source in self.position_sources if (source.kind, source.argument.lower()) == ("header", "last-event-id")]
        self.stream_position_sources = (*last, *(source for source in self.position_sources if source not in last))
        """A browser that comes back to a stream repeats the URI, position and all, and says in Last-Event-ID where it stands since then."""
        self.bad_position_is_none: bool = values["poll_bad_position"] == "all"
        self.etag: bool = values["poll_etag"]
        self.format: str = values["poll_format"]
        self.framing: str = values["poll_framing"]
        self.ttl: float = values["poll_ttl"]
        self.store_ttl = int(self.ttl)
        """Seconds that memcached is told. Where messages grow old one by one, the queue lives longer than each, and than it takes to
        look again; at most 30 days, beyond which memcached takes it for a date."""
        if self.keep != "taken":
            self.store_ttl = min(math.ceil(self.ttl + max(self.ttl / 4, 2 * self.interval)) + 1, 30 * 24 * 3600)
        self.max_queue: int = values["poll_max_queue"]
        self.memory_limit: int = values["poll_memory_limit"]
        self.max_parked: int = values["poll_max_parked"]
        self.publish_from = Networks(values["poll_publish_from"])
        self.socket_allow: tuple[str, ...] = values["poll_socket_allow"]
        self.presence: bool = values["poll_presence"]
        self.presence_queue: str = values["poll_presence_queue"]
        if self.presence:
            self._check_presence()
        self.grace: float = values["poll_grace"]
        self.ack_timeout: float = values["poll_ack_timeout"]
        self.heartbeat: float = values["poll_heartbeat"]
        self.stream_time: float = values["poll_stream_time"]
        self.stream_buffer: int = values["poll_stream_buffer"]
        self.store_timeout: float = values["poll_store_timeout"]
        self.auth: AuthChoice = values["poll_auth"]
        self.auth_tokens: tuple[Source, ...] = values["poll_auth_token"]
        self.credentials = tuple(source.argument.encode() for source in self.auth_tokens if source.kind == "query")
        """Members of the query that are credentials, where poll_auth is on."""
        self.auth_audience: str | None = values["poll_auth_audience"]
        self.auth_timeout: float = values["poll_auth_timeout"]
        self.auth_ttl: float = values["poll_auth_ttl"]
        self.park_rate: int = values["poll_park_rate"]
        self.park_burst: int = values["poll_park_burst"]
        self.max_by_address: int = values["poll_max_by_address"]
        self.max_by_queue: int = values["poll_max_by_queue"]
        self.origins = frozenset(origin.encode() for origin in values["poll_allow_origin"])

    def _check_presence(self) -> None:
        try:
            key_for(self.presence_queue.replace("*", "x", 1).encode(), self.prefix)
        except BadName as error:
            raise ConfigError(f"poll_presence_queue: {error}", about="poll_presence_queue") from None
        if self.presence_queue.count("*") > 1 or self.presence_queue == "*":
            raise ConfigError("poll_presence_queue is a name with at most one *, which stands for the queue", about="poll_presence_queue")
