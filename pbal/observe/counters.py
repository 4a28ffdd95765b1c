"""Counters, declared once like tunables and then read by the console, the manual and the tests.

A counter is declared with its name and what it counts; incrementing one that nobody declared is a KeyError in
the first test that reaches it, never a number nobody finds. `counts` is a plain dict because a hot path does
`counts["requests"] += 1` and nothing cheaper exists in Python.
"""

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counter:
    """One declared counter. A gauge goes down again; a plain counter only rises."""

    name: str
    summary: str
    gauge: bool = False


CORE: tuple[Counter, ...] = (
    Counter("connections", "Client connections accepted."),
    Counter("clients", "Client connections open now, consoles included.", gauge=True),
    Counter("requests", "Request heads read on all services."),
    Counter("bad_requests", "Requests refused as malformed or over a limit (4xx and 5xx made by the reader)."),
    Counter("request_timeouts", "Requests answered 408 because the head or body did not arrive in time."),
    Counter("idle_closed", "Keep-alive connections closed after persist_client_idle_timeout."),
    Counter("slow_readers_closed", "Connections closed because the client took nothing for idle_timeout."),
    Counter("aborted_clients", "Clients that left before their answer was complete."),
    Counter("backend_connects", "Connections opened to nodes."),
    Counter("backend_connect_failures", "Connections to nodes that failed or timed out."),
    Counter("backend_reuses", "Requests sent on a connection that had served one before."),
    Counter("backend_retries", "Requests sent again to a node, where RFC 9110 section 9.2.2 allows it."),
    Counter("backend_errors", "Requests answered 502 because no node gave a usable response."),
    Counter("backend_unavailable", "Requests answered 503 because there was no node, or no backend within queue_timeout."),
    Counter("backend_timeouts", "Requests answered 504 because a node did not connect or answer in time."),
    Counter("truncated_responses", "Responses that a node cut off. pbal closed the client connection."),
    Counter("tunnels", "Connections that were upgraded to another protocol."),
    Counter("plugin_errors", "Faults of plugins. A fault in a hook is answered 500."),
    Counter(
        "answers_unacknowledged",
        "Answers that may not be lost, written and not known to be acknowledged by the client's system.",
        gauge=True,
    ),
    Counter("answers_lost", "Answers that the client's system did not acknowledge before the connection ended. Their plugin was told."),
    Counter("answers_refused", "Answers of plugins to requests that had an answer already, such as a 504. Nothing was sent."),
    Counter("taken_timeouts", "Requests answered 504 because a plugin took them and did not answer within taken_timeout."),
    Counter("loops_refused", "Requests answered 508 because they came back to the service that sent them."),
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
    Counter("tls_certificate_days", "Days until the first certificate in use expires.", gauge=True),
    Counter("misdirected_requests", "Requests answered 421: for a host that the connection's certificate is not for (ssl_host_check)."),
    Counter("console_commands", "Statements executed on management consoles."),
    Counter("tick_errors", "Connections aborted, and services passed over, because their part of the tick failed."),
    Counter("log_lines_dropped", "Log lines dropped because nobody read standard error, or not fast enough."),
    Counter("access_lines_dropped", "Lines of access logs dropped because they could not be written, or not fast enough."),
    Counter("log_lines_limited", "Warnings left out because a warning of the same kind was logged within ten seconds."),
    Counter("loop_stalls", "Times the event loop was at least 100 ms late. Each stall delayed every client."),
    Counter("loop_lag_ms", "Largest delay of the event loop in the last second, in milliseconds.", gauge=True),
    Counter("loop_lag_max_ms", "Largest delay of the event loop in the last minute, in milliseconds.", gauge=True),
    Counter("loop_lag_p99_ms", "99 of 100 measured delays of the event loop were at most this long, in milliseconds.", gauge=True),
)


class Counters:
    """The values of all declared counters. `counts` maps name to int and may be written directly."""

    __slots__ = ("counts", "declared")

    def __init__(self, declared: tuple[Counter, ...] = CORE) -> None:
        self.declared: dict[str, Counter] = {}
        self.counts: dict[str, int] = {}
        self.declare(declared)

    def declare(self, counters: tuple[Counter, ...]) -> None:
        """Add declarations; one that exists keeps its value, so a reloaded plugin goes on counting."""
        for counter in counters:
            self.declared[counter.name] = counter
            self.counts.setdefault(counter.name, 0)


@dataclass(slots=True)
class Histogram:
    """Counts of durations in buckets of doubling width. Units: seconds in, milliseconds out.

    Percentiles are the upper edge of the bucket they fall in, so they are right to a factor of two at worst.
    """

    edges: tuple[float, ...] = tuple(0.0001 * 2**step for step in range(20))
    buckets: list[int] = field(default_factory=lambda: [0] * 21)
    count: int = 0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.buckets[bisect_left(self.edges, seconds)] += 1
        self.count += 1

    def percentile(self, share: float) -> float:
        """The duration in milliseconds below which `share` (0..1) of all lie; 0 when nothing was counted."""
        wanted, seen = share * self.count, 0
        for place, number in enumerate(self.buckets):
            seen += number
            if number and seen >= wanted:
                return self.edges[min(place, len(self.edges) - 1)] * 1000
        return 0.0
