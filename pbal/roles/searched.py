"""Whether the regular expressions of rules come to an end, before anything is done by them.

A field of sixty thousand octets that nearly matches keeps `Android.*Mobile` busy for a third of a second, and no other client is served
then. So what may take long (model/searching.py) is looked at when a request arrives, in 50 ms of processor time altogether. Where that
is not enough the request is answered 500: no later rule may decide in place of one that could not. What was found in time is not
remembered: hooks may change the request, and a rule sees it as it is then.
"""

from collections.abc import Sequence
from functools import partial

from pbal.model.conditions import Look
from pbal.model.exchange import Exchange
from pbal.model.searching import TookTooLong, within
from pbal.model.service import Service
from pbal.observe.recent import Trouble

TOO_LONG = "500: a regular expression of a rule takes too long over this request"
"""What `explain` says then."""


def in_time(service: Service, exchange: Exchange, looks: Sequence[Look]) -> bool:
    """Whether all of `looks` end in time; False when the request was answered."""
    if ends(exchange, looks):
        return True
    exchange.unjudged = True
    given_up(service, exchange)
    return False


def given_up(service: Service, exchange: Exchange) -> None:
    """A search took too long: count it, log it, and answer the request."""
    service.world.counters.counts["regex_timeouts"] += 1
    service.world.log_limited(
        f"regex timeout {service.name}",
        "service %(service)s: the regular expressions of its rules took too long over a request of %(client)s: 500",
        {"event": "regex_timeout", "service": service.name, "client": exchange.client_address.decode("ascii", "replace")},
    )
    exchange.trouble = Trouble("the regular expressions of rules took longer than 50 ms over it")
    if not exchange.answered:
        exchange.error(500, b"The rules for this request took too long.\n")


def ends(exchange: Exchange, looks: Sequence[Look]) -> bool:
    """Whether they do."""
    try:
        within(partial(_look, exchange, looks))
    except TookTooLong:
        return False
    return True


def _look(exchange: Exchange, looks: Sequence[Look]) -> None:
    for look in looks:
        look(exchange)
