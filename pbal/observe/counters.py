"""Counters, gauges and histograms, declared once like tunables and then read by the console, the manual, /metrics and the tests.

A counter is declared with its name and what it counts; incrementing one that nobody declared is a KeyError in
the first test that reaches it, never a number nobody finds. `counts` is a plain dict because a hot path does
`counts["requests"] += 1` and nothing cheaper exists in Python.

What is counted by service, node or plugin has labels. Its numbers are attributes of the things themselves: whoever asks has them
collected (COLLECTED, model/measures.py), and no hot path looks up a label.
"""

from dataclasses import dataclass
from typing import Final

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


@dataclass(frozen=True, slots=True)
class Counter:
    """One declared number. A counter only rises; a gauge goes down again; a histogram counts durations (observe/histogram.py)."""

    name: str
    summary: str
    gauge: bool = False
    unit: str = ""
    """In the plural: "bytes", "seconds", "milliseconds", "days". Empty: it is a number of what the name says."""
    labels: tuple[str, ...] = ()
    """What it is told apart by: "service", "pool", "node", "plugin"."""
    histogram: bool = False

    @property
    def kind(self) -> str:
        """COUNTER, GAUGE or HISTOGRAM."""
        return HISTOGRAM if self.histogram else GAUGE if self.gauge else COUNTER


CORE: tuple[Counter, ...] = (
    Counter("connections", "Client connections accepted."),
    Counter("clients", "Client connections open now, consoles included.", gauge=True),
    Counter("requests", "Request heads read on all services."),
    Counter("bad_requests", "Requests refused as malformed or over a limit (4xx and 5xx made by the reader)."),
    Counter("request_timeouts", "Requests answered 408 because the head or body did not arrive in time."),
    Counter("idle_closed", "Keep-alive connections closed after persist_client_idle_timeout."),
    Counter("slow_readers_closed", "Connections closed because the client took nothing for idle_timeout."),
    Counter("half_closed", "Clients that ended their sending side before they had their whole answer. Who leaves does so, too."),
    Counter("aborted_clients", "Clients that left before their answer was complete."),
    Counter("backend_connects", "Connections opened to nodes."),
    Counter("backend_connect_failures", "Connections to nodes that failed or timed out."),
    Counter("backend_reuses", "Requests sent on a connection that had served one before."),
    Counter("backend_retries", "Requests sent again to a node, where RFC 9110 section 9.2.2 allows it."),
    Counter("backend_stale", "Kept connections that a node ended just as a request was to go out on them. It goes out on a new one."),
    Counter("backend_retries_denied", "Requests not sent again because the retry_budget of their pool was used up."),
    Counter("sticky_bound", "Clients bound to a node by a cookie (sticky), new ones and those whose node was not to be had."),
    Counter("sticky_kept", "Requests answered by the node that their sticky cookie names."),
    Counter("sticky_refused", "Requests whose sticky cookie was not signed with the pool's key. It was ignored."),
    Counter("backend_errors", "Requests answered 502 because no node gave a usable response."),
    Counter("backend_unavailable", "Requests answered 503 because there was no node, or no backend within queue_timeout."),
    Counter("backend_timeouts", "Requests answered 504 because a node did not connect or answer in time."),
    Counter("truncated_responses", "Responses that a node cut off. pbal closed the client connection."),
    Counter("reproxy_files", "Answers made of a file that X-REPROXY-FILE named."),
    Counter("reproxy_urls", "Answers made of what X-REPROXY-URL named."),
    Counter("reproxy_services", "Requests handed to the service that X-REPROXY-SERVICE named."),
    Counter("reproxy_refused", "Files and URLs in X-REPROXY fields that reproxy_root and reproxy_allow do not allow."),
    Counter("reproxy_failures", "URLs in X-REPROXY-URL that did not work: no connection, no answer in time, or another than was ordered."),
    Counter("reproxy_connects", "Connections opened to servers that X-REPROXY-URL named."),
    Counter("reproxy_connect_failures", "Connections to such servers that failed or timed out."),
    Counter("files_cut_off", "Answers cut off because their file became shorter, or could not be read any more."),
    Counter("listings_cut", "Lists of directories that ended at dirindexing_limit."),
    Counter("file_cache_hits", "Requests answered with a file that was kept (SERVER file_cache_files)."),
    Counter("file_cache_misses", "Requests for which a file was looked for: not kept, or not looked at within file_recheck."),
    Counter("file_cache_evictions", "Files kept no longer because there were too many, or too large ones."),
    Counter("puts", "Files written by PUT, new ones and those that replaced another."),
    Counter("deletes", "Files removed by DELETE."),
    Counter(
        "writes_refused", "Requests PUT and DELETE that were refused (4xx) for their name, their fields, or a condition. Nothing changed."
    ),
    Counter("writes_failed", "Requests PUT and DELETE answered 5xx because the disk was full (507), too slow, or failed."),
    Counter("concatenations_refused", "Requests for several files answered 403: too many, too large, or ruled by path otherwise."),
    Counter("renamings_refused", "Requests answered 403 because a plugin looks up another name, and a rule by path is for that one alone."),
    Counter("precompressed_stale", "Files of `precompressed` that were found to be older than what they were made of, and passed over."),
    Counter("fallbacks", "Requests sent to fallback_pool after an answer of their pool that fallback_on names."),
    Counter("rewrites_refused", "Requests answered 400 because REWRITE made a path with dot segments or new escapes of theirs."),
    Counter("requests_limited", "Requests answered 429 because of a LIMIT."),
    Counter("requests_limited_dry", "Requests that a LIMIT with DRY RUN would have refused, and that went on."),
    Counter("compressed_responses", "Responses that pbal compressed."),
    Counter("compression_in_bytes", "Bytes of bodies before pbal compressed them.", unit="bytes"),
    Counter("compression_out_bytes", "Bytes of bodies that pbal had compressed.", unit="bytes"),
    Counter("tunnels", "Connections that were upgraded to another protocol."),
    Counter("plugins_taken_out", "Times a plugin was taken out of a chain because it failed too often (plugin_error_limit)."),
    Counter("plugin_errors", "Faults of plugins. A fault in a hook is answered 500."),
    Counter(
        "answers_unacknowledged",
        "Answers that may not be lost, written and not known to be acknowledged by the client's system.",
        gauge=True,
    ),
    Counter("answers_lost", "Answers that the client's system did not acknowledge before the connection ended. Their plugin was told."),
    Counter("answers_refused", "Answers of plugins to requests that had an answer already, such as a 504. Nothing was sent."),
    Counter("taken_timeouts", "Requests answered 504 because a plugin took them and did not answer within taken_timeout."),
    Counter("bodies_spooled", "Request bodies put into a file. The access log tells why, as the note `spooled`."),
    Counter("spools_refused", "Requests answered 503 because the files of request bodies would have taken more than max_spool."),
    Counter("spool_failures", "Requests answered 503 or 500 because the disk did not take their body, or did not give it back."),
    Counter("upload_datagrams_refused", "Datagrams that an upload_tracker dropped: malformed, or of too many sessions."),
    Counter("upload_reports_lost", "Reports of uploads that could not be sent to upload_status_listeners."),
    Counter("slow_bodies", "Requests answered 408 because their body came at less than min_body_rate."),
    Counter("loops_refused", "Requests answered 508 because they came back to the service that sent them."),
    Counter("backend_slow_connects", "Second connections begun because a node took longer than a second to accept, or verify, the first."),
    Counter("queue_refusals", "Requests answered 503 because queue_size requests waited for a node already."),
    Counter("queue_timeouts", "Requests that gave up waiting for a node after queue_timeout."),
    Counter("backend_surprises", "Connections to nodes closed because the node sent bytes that belong to no request."),
    Counter("accept_pauses", "Times a listener stopped accepting because descriptors ran out."),
    Counter("tls_handshakes", "Handshakes of TLS that clients completed."),
    Counter("tls_handshakes_resumed", "Those of them that went on from an earlier one."),
    Counter(
        "tls_handshake_failures", "Handshakes that failed: no common protocol or cipher, a certificate refused, or a client that left."
    ),
    Counter("tls_handshake_timeouts", "Connections closed because their handshake took longer than ssl_handshake_timeout."),
    Counter("tls_clear_text", "Connections to a port of TLS that spoke HTTP in clear text, and were told so."),
    Counter("tls_truncations", "Connections broken off because the client's end came without close_notify."),
    Counter("tls_certificate_days", "Days until the first certificate in use expires.", gauge=True, unit="days"),
    Counter("nodefile_errors", "Times that a pool kept its nodes because its nodefile was written with a mistake, or had gone."),
    Counter("name_lookups", "Lookups of nodes that are known by name, those that failed included."),
    Counter("name_lookup_failures", "Lookups of nodes' names that failed. The addresses found before stay in use."),
    Counter("name_changes", "Times that a node's name was found to have other addresses than before."),
    Counter("proxy_headers", "PROXY headers that peers sent whom accept_proxy_protocol names."),
    Counter(
        "proxy_headers_missing",
        "Connections of peers whom accept_proxy_protocol names, closed because they began with no PROXY header, or with a malformed one.",
    ),
    Counter("proxy_headers_refused", "PROXY headers that came from others, or where none may be. The connection was closed."),
    Counter("misdirected_requests", "Requests answered 421: for a host that the connection's certificate is not for (ssl_host_check)."),
    Counter("selector_loops", "Requests answered 508 because selectors handed them on to each other."),
    Counter(
        "regex_timeouts",
        "Requests over which regular expressions of VPATH, WHEN, REWRITE or a plugin took longer than 50 ms. They are answered 500, but"
        " not for those of highpri and throttle.",
    ),
    Counter("failures", "Requests that were refused, failed, or were answered 5xx. `show errors` has the last ones."),
    Counter("console_commands", "Statements executed on management consoles."),
    Counter("console_http_requests", "Requests for pages, /metrics, /healthz and /readyz on management consoles."),
    Counter("console_login_failures", "Wrong passwords said to consoles, LOGIN and HTTP."),
    Counter("console_logins_busy", "Passwords not looked at because too many waited to be checked."),
    Counter("console_strangers_closed", "Connections to consoles closed because too many had not said a password yet."),
    Counter("tick_errors", "Connections aborted, and services passed over, because their part of the tick failed."),
    Counter("log_lines_dropped", "Log lines dropped because nobody read standard error, or not fast enough."),
    Counter("access_lines_dropped", "Lines of access logs dropped because they could not be written, or not fast enough."),
    Counter("log_lines_limited", "Warnings left out because a warning of the same kind was logged within ten seconds."),
    Counter("loop_stalls", "Times the event loop was at least 100 ms late. Each stall delayed every client."),
    Counter("loop_lag_ms", "Largest delay of the event loop in the last second, in milliseconds.", gauge=True, unit="milliseconds"),
    Counter("loop_lag_max_ms", "Largest delay of the event loop in the last minute, in milliseconds.", gauge=True, unit="milliseconds"),
    Counter(
        "loop_lag_p99_ms",
        "99 of 100 measured delays of the event loop were at most this long, in milliseconds.",
        gauge=True,
        unit="milliseconds",
    ),
)

_SERVICE: Final = ("service",)
_NODE: Final = ("pool", "node")

COLLECTED: tuple[Counter, ...] = (
    Counter("service_requests", "Requests that a service answered, parked, or lost.", labels=_SERVICE),
    Counter(
        "service_responses",
        "Answers of a service by class of status: 2xx and so on; none is a request whose client left before an answer began.",
        labels=(*_SERVICE, "status"),
    ),
    Counter("service_received_bytes", "Bytes of request bodies that came.", unit="bytes", labels=_SERVICE),
    Counter("service_sent_bytes", "Bytes of response bodies that were written to clients.", unit="bytes", labels=_SERVICE),
    Counter(
        "request_seconds",
        "Time from the head of a request until the last byte of its answer was written. What is parked, and tunnels, do not count.",
        unit="seconds",
        labels=_SERVICE,
        histogram=True,
    ),
    Counter("service_parked", "Requests that are parked now, and no answer to them has begun.", gauge=True, labels=_SERVICE),
    Counter("service_waiting", "Clients that wait for a connection to a node.", gauge=True, labels=_SERVICE),
    Counter("service_connecting", "Connections to nodes that are being opened.", gauge=True, labels=_SERVICE),
    Counter("service_bored", "Connections to nodes kept for the next request.", gauge=True, labels=_SERVICE),
    Counter("tunnels_open", "Upgraded connections that pass through to nodes now.", gauge=True),
    Counter("node_requests", "Requests sent to a node.", labels=_NODE),
    Counter("node_responses", "Answers of a node by class of status.", labels=(*_NODE, "status")),
    Counter(
        "node_seconds",
        "Time from sending a request to a node to the end of its answer, or of the attempt. A slow client adds to it.",
        unit="seconds",
        labels=_NODE,
        histogram=True,
    ),
    Counter("node_connects", "Connections opened to a node.", labels=_NODE),
    Counter("node_connect_failures", "Connections to a node that failed or timed out.", labels=_NODE),
    Counter("node_errors", "Requests for which a node gave no usable answer: silent, broken off, malformed.", labels=_NODE),
    Counter("node_active", "Requests that a node is working on.", gauge=True, labels=_NODE),
    Counter(
        "node_up", "1 while a node is UP, or nothing was sent to it yet, else 0. See HEALTH in pbal.conf(5).", gauge=True, labels=_NODE
    ),
    Counter("node_state", "1 for the state of a node: UP, UNTRIED, DOWN, DRAIN, MAINT.", gauge=True, labels=(*_NODE, "state")),
    Counter("node_ejections", "Times a node was ejected after eject_after failures in a row.", labels=_NODE),
    Counter("node_stalls", "Times a node was passed over because it did not answer while others did (stall_after).", labels=_NODE),
    Counter("node_checks", "Active checks of a node.", labels=_NODE),
    Counter("node_check_failures", "Those of them that were bad.", labels=_NODE),
    Counter("node_weight", "The share of new requests that POOL ADD gives a node.", gauge=True, labels=_NODE),
    Counter("pool_retrying", "Requests in progress that were sent again (retry_budget).", gauge=True, labels=("pool",)),
    Counter("pool_usable", "Nodes of a pool that get requests.", gauge=True, labels=("pool",)),
    Counter(
        "pool_open",
        "1 while so few nodes of a pool are well that all of them get requests (panic_share), else 0.",
        gauge=True,
        labels=("pool",),
    ),
    Counter("pool_opened", "Times when a pool came to have so few nodes that are well that all of them got requests.", labels=("pool",)),
    Counter("limit_refusals", "Requests that a LIMIT refused, or would have refused with DRY RUN.", labels=(*_SERVICE, "limit")),
    Counter("limit_forgotten", "Clients that a LIMIT forgot because it watched too many.", labels=(*_SERVICE, "limit")),
    Counter("limit_clients", "Clients that a LIMIT watches now.", gauge=True, labels=(*_SERVICE, "limit")),
    Counter("plugin_hook_calls", "Calls of a plugin's hook.", labels=("plugin", "hook")),
    Counter(
        "plugin_hook_seconds",
        "Time that a plugin's hook took in all. It ends where the hook handed the request on.",
        unit="seconds",
        labels=("plugin", "hook"),
    ),
    Counter("plugin_faults", "Faults of a plugin, of all its generations.", labels=("plugin",)),
    Counter("access_log_waiting_bytes", "Bytes of lines that wait to be written to a log.", gauge=True, unit="bytes", labels=("log",)),
    Counter("resident_bytes", "Memory of the process.", gauge=True, unit="bytes"),
    Counter("body_memory_bytes", "Bytes of request bodies held in memory for a node or a plugin.", gauge=True, unit="bytes"),
    Counter("spool_bytes", "Bytes of request bodies that were spooled to disk, or are on their way there.", gauge=True, unit="bytes"),
    Counter("upload_sessions", "Uploads that upload_trackers heard of in the last seconds.", gauge=True),
    Counter("spools", "Files of request bodies open now.", gauge=True),
    Counter("file_cache_entries", "Names whose files are kept to be sent again.", gauge=True),
    Counter("file_cache_bytes", "Bytes of kept files that are in memory.", gauge=True, unit="bytes"),
    Counter("files_open", "Files open now that are sent, kept to be sent again, or written by a PUT.", gauge=True),
    Counter("descriptors", "Connections, listeners, spools, and files that are sent or written, open now.", gauge=True),
    Counter("descriptors_limit", "Most files that the system lets pbal open.", gauge=True),
    Counter("uptime_seconds", "Time since pbal started.", gauge=True, unit="seconds"),
    Counter(
        "build_info",
        "Always 1; the labels tell the version of pbal and whether its hot path is compiled.",
        gauge=True,
        labels=("version", "build"),
    ),
)
"""What is collected when somebody asks: model/measures.py has a collector for each."""


class Counters:
    """The values of all declared counters. `counts` maps name to int and may be written directly."""

    __slots__ = ("collected", "counts", "declared")

    def __init__(self, declared: tuple[Counter, ...] = CORE) -> None:
        self.declared: dict[str, Counter] = {}
        """Those whose values are in `counts`."""
        self.counts: dict[str, int] = {}
        self.collected: dict[str, Counter] = {counter.name: counter for counter in COLLECTED}
        """Those whose values are collected when somebody asks."""
        self.declare(declared)

    @property
    def all(self) -> dict[str, Counter]:
        """Every declaration, by name."""
        return {**self.declared, **self.collected}

    def declare(self, counters: tuple[Counter, ...]) -> None:
        """Add declarations; one that exists keeps its value, so a reloaded plugin goes on counting. One may change its kind."""
        for counter in counters:
            if counter.labels or counter.histogram:
                self.declared.pop(counter.name, None)
                self.collected[counter.name] = counter
                continue
            self.collected.pop(counter.name, None)
            self.declared[counter.name] = counter
            self.counts.setdefault(counter.name, 0)
