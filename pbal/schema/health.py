"""Of pools: checks, ejection and slow start of nodes."""

import re
from typing import NoReturn

from pbal.schema import types
from pbal.schema.kinds import BadValue
from pbal.schema.tunables import Tunable

_PERCENT = re.compile(r"([0-9]{1,3})(?:\s*%)?", re.ASCII)
_STATUSES = re.compile(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?", re.ASCII)


def _refuse(expected: str, found: str) -> NoReturn:
    raise BadValue(f"expected {expected}, found {found!r}", expected=expected)


def _parse_percent(text: str) -> float:
    match = _PERCENT.fullmatch(text)
    if match is None or int(match[1]) > 100:
        _refuse("a share from 0% to 100%", text)
    return int(match[1]) / 100


def _render_percent(value: float) -> str:
    return f"{round(value * 100)}%"


def _parse_statuses(text: str) -> tuple[range, ...]:
    found: list[range] = []
    for word in text.replace(",", " ").split():
        match = _STATUSES.fullmatch(word)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            _refuse("statuses such as 200-399 or 200,204,401", text)
        found.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(found)


def _render_statuses(value: tuple[range, ...]) -> str:
    return ",".join(str(each.start) if len(each) == 1 else f"{each.start}-{each.stop - 1}" for each in value)


def _parse_some(text: str) -> tuple[range, ...]:
    return _parse_statuses(text) or _refuse("one or more statuses such as 200-399", text)


def _parse_path(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text, re.ASCII):
        _refuse("a path such as /healthz, without blanks", text)
    return text


def _parse_host(text: str) -> str:
    if not re.fullmatch(r"[!-~]*", text, re.ASCII):
        _refuse("the value of a Host field such as app.example", text)
    return text


PERCENT: types.Type[float] = types.Type("percent", _parse_percent, _render_percent)
"""A share from 0 to 1."""
STATUSES: types.Type[tuple[range, ...]] = types.Type("statuses", _parse_some, _render_statuses)
NO_OR_STATUSES: types.Type[tuple[range, ...]] = types.Type("statuses", _parse_statuses, _render_statuses)
TARGET: types.Type[str] = types.Type("target", _parse_path)
HOST: types.Type[str] = types.Type("host", _parse_host)

HEALTH: tuple[Tunable, ...] = (
    Tunable(
        "check",
        types.enum("off", "tcp", "http"),
        default="off",
        summary="How pbal checks the nodes of a pool that a service uses. tcp: a connection can be made. http: a request is answered with"
        " one of check_status. The checks use TLS where the service that uses the pool has ssl_backend on.",
        source="pbal",
    ),
    Tunable("check_path", TARGET, default="/", summary="The target of the request of an http check.", source="pbal"),
    Tunable(
        "check_method",
        types.enum("GET", "HEAD", "OPTIONS"),
        default="GET",
        summary="The method of the request of an http check.",
        source="pbal",
    ),
    Tunable(
        "check_host",
        HOST,
        default="",
        summary="The Host field of the request of an http check. Empty: the node itself.",
        source="pbal",
    ),
    Tunable(
        "check_port",
        types.INT,
        default="0",
        unit="port",
        maximum="65535",
        summary="The port that checks connect to. 0: that of the node.",
        source="pbal",
    ),
    Tunable(
        "check_interval",
        types.DURATION,
        default="2s",
        unit="seconds",
        minimum="50ms",
        summary="Time from one check of a node to the next. It varies by a tenth, so that checks spread.",
        source="pbal",
    ),
    Tunable(
        "check_timeout",
        types.DURATION,
        default="2s",
        unit="seconds",
        minimum="10ms",
        summary="How long a check may take, connecting included.",
        source="pbal",
    ),
    Tunable(
        "check_rise",
        types.INT,
        default="2",
        unit="checks",
        minimum="1",
        maximum="1000",
        summary="A node that is down is up again after this many good checks in a row. The first check of a node counts at once.",
        source="pbal",
    ),
    Tunable(
        "check_fall",
        types.INT,
        default="3",
        unit="checks",
        minimum="1",
        maximum="1000",
        summary="A node that is up is down after this many bad checks in a row. The first check of a node counts at once.",
        source="pbal",
    ),
    Tunable("check_status", STATUSES, default="200-399", summary="Statuses of a good answer to an http check.", source="pbal"),
    Tunable(
        "eject_after",
        types.INT,
        default="5",
        unit="failures",
        maximum="1000000",
        summary="A node gets no requests for a while after this many failures in a row: no connection, no usable answer, no answer in"
        " time, or a status of eject_status. 0: never.",
        source="pbal (Perlbal passes a node over for a second after a connection that it refused; so does pbal, before)",
    ),
    Tunable(
        "eject_status",
        NO_OR_STATUSES,
        default="502-504",
        summary="Statuses of answers that count as failures of a node. A node that fails at once would get more requests than the others"
        " with least_connections and p2c. Empty: none does.",
        source="pbal",
    ),
    Tunable(
        "eject_time",
        types.DURATION,
        default="10s",
        unit="seconds",
        minimum="10ms",
        summary="How long a node is ejected for the first time. The second time is twice as long, the third three times. Then it gets one"
        " request at a time until it has answered one; where `check` is on, not before a check found it well.",
        source="pbal",
    ),
    Tunable(
        "eject_time_most",
        types.DURATION,
        default="5m",
        unit="seconds",
        minimum="10ms",
        summary="The longest time for which a node is ejected.",
        source="pbal",
    ),
    Tunable(
        "eject_most",
        PERCENT,
        default="50%",
        summary="No node is ejected if then more than this share of the pool were ejected, or down by their checks.",
        source="pbal",
    ),
    Tunable(
        "panic_share",
        PERCENT,
        default="30%",
        summary="If less than this share of the pool is left, its nodes get requests whether they are ejected and down or not: the few"
        " that are left could not bear all of them. The same holds if none is left. DRAIN and MAINT count as not in the pool.",
        source="pbal",
    ),
    Tunable(
        "stall_after",
        types.INT,
        default="10",
        unit="requests",
        maximum="1000000",
        summary="A node that has not answered any of this many requests, which wait for a second altogether, gets no more while others"
        " answer. 0: it does.",
        source="pbal",
    ),
    Tunable(
        "slow_start",
        types.DURATION,
        default="0s",
        unit="seconds",
        summary="A node that comes back from being down, ejected, in maintenance or drained gets its full share of requests only after"
        " this time, and less before. 0: at once.",
        source="pbal",
    ),
)
