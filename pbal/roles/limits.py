"""The limits of a service at its entrance: 429 for whoever is over one (model/limiting.py)."""

from pbal.model.exchange import Exchange
from pbal.model.limiting import excess, seconds
from pbal.model.searching import TookTooLong
from pbal.model.service import Service
from pbal.observe.access import LIMITED
from pbal.observe.recent import Trouble
from pbal.roles.searched import given_up, in_time


def admitted(service: Service, exchange: Exchange) -> bool:
    """Whether a request goes on; False when it was answered with 429 (RFC 6585 section 4)."""
    if service.slow_limits and not in_time(service, exchange, service.slow_limits):
        return False
    try:
        within, over = excess(service.limiting, exchange)
    except TookTooLong:
        given_up(service, exchange)
        return False
    refused, longest = "", 0.0
    for limit, who, wait in over:
        limit.refused(who)
        _tell(service, exchange, limit.said)
        if not limit.dry and wait > longest:
            refused, longest = limit.said, wait
    counts = service.world.counters.counts
    if refused:
        counts["requests_limited"] += 1
        exchange.cause = LIMITED
        exchange.trouble = Trouble(f"over the limit {refused}")
        exchange.error(429, b"Too many requests: try again later.\n", [(b"Retry-After", b"%d" % seconds(longest))])
        return False
    if over:
        counts["requests_limited_dry"] += 1
    for limit, who in within:
        limit.charge(who, exchange.started, exchange)
    return True


def _tell(service: Service, exchange: Exchange, words: str) -> None:
    service.world.log_limited(
        f"limit {service.name} {words}",
        "service %(service)s: %(client)s is over the limit %(limit)s",
        {"event": "over_limit", "service": service.name, "client": exchange.client_address.decode("ascii", "replace"), "limit": words},
    )
