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
    Counter("request_timeouts", "Requests answered 408: head or body did not arrive in time."),
    Counter("idle_closed", "Keep-alive connections closed after persist_client_idle_timeout."),
    Counter("slow_readers_closed", "Connections closed because the client took nothing for idle_timeout."),
    Counter("aborted_clients", "Clients that left before their answer was complete."),
    Counter("backend_connects", "Connections opened to nodes."),
    Counter("backend_connect_failures", "Connections to nodes that failed or timed out."),
    Counter("backend_reuses", "Requests sent on a connection that had served one before."),
    Counter("backend_retries", "Requests sent again to a node, where RFC 9110 section 9.2.2 allows it."),
    Counter("backend_errors", "Answers 502: no usable response from any node."),
    Counter("backend_unavailable", "Answers 503: no node to ask, or none within queue_timeout."),
    Counter("backend_timeouts", "Answers 504: a node did not connect or answer in time."),
    Counter("truncated_responses", "Responses cut off because the backend was; the client connection was closed."),
    Counter("tunnels", "Connections upgraded and tunnelled."),
    Counter("plugin_errors", "Exceptions raised by plugins; each answered its request with 500."),
    Counter("answers_refused", "Answers of plugins to requests that were answered already, or whose client had a 504. Nothing was sent."),
    Counter("taken_timeouts", "Answers 504: a plugin took the request and did not answer within taken_timeout."),
    Counter("loops_refused", "Answers 508: a request came back to the service that sent it."),
    Counter("backend_surprises", "Connections to nodes closed because octets came that nobody had asked for."),
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
    Counter("tick_errors", "Connections aborted, and roles passed over, because their duty of the tick failed."),
    Counter("log_lines_dropped", "Log lines dropped because standard error took them too slowly or not at all."),
    Counter("log_lines_limited", "Warnings left out because one of their kind was logged within ten seconds."),
    Counter("loop_stalls", "Times the event loop was found 100 ms late or more; each stall delayed every client."),
    Counter("loop_lag_ms", "Most the event loop was found late within the last second, in milliseconds.", gauge=True),
    Counter("loop_lag_max_ms", "Most the event loop was found late within the last minute, in milliseconds.", gauge=True),
    Counter("loop_lag_p99_ms", "Lag of the event loop in 99 of 100 measurements, at most, in milliseconds.", gauge=True),
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
