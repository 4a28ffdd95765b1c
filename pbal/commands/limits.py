"""LIMIT: how much a client may ask for."""

from pbal.commands.routes import when_said
from pbal.commands.session import Session
from pbal.model.limiting import ConcurrencyLimit, Key, Limit, RateLimit, key_of
from pbal.model.service import Service
from pbal.schema.commands import OK, Reply, bad_argument, command


@command
def limit(
    session: Session,
    service: Service,
    rate: str | None = None,
    burst_size: str | None = None,
    number_at_once: str | None = None,
    limit_key: str | None = None,
    conditions: str | None = None,
) -> Reply:
    """Answer 429 to a client that asks for too much: for more than a rate, or for too many requests at once.

    A rate is a number of requests in a second, a minute, an hour or a day: `10/s`, `100/m`, `1000/h`, `5000/d`. BURST says how many may
    come at once; if it is not said, as many as the rate has. BY says who is one client: `address` (the default; of IPv6 the /64),
    `header:NAME`, `cookie:NAME`, `host`, or `service`, which is everybody. Requests without that field or cookie are one client together. A
    service may have many limits, and a request has to be within each; one that is refused is charged to none. A request that is parked, as
    polls are, no longer counts as one of those at once. WHEN says for which requests it holds; see RULES in pbal.conf(5).
    DROP RULE takes a limit back. The same limit twice is one.
    """
    return _add(session, service, _limit(session, rate, burst_size, number_at_once, limit_key, conditions, dry=False))


@command
def limit_dry_run(
    session: Session,
    service: Service,
    rate: str | None = None,
    burst_size: str | None = None,
    number_at_once: str | None = None,
    limit_key: str | None = None,
    conditions: str | None = None,
) -> Reply:
    """Count and log what LIMIT would refuse, and refuse nobody: to find out what a limit would do."""
    return _add(session, service, _limit(session, rate, burst_size, number_at_once, limit_key, conditions, dry=True))


def _limit(
    session: Session, rate: str | None, burst: str | None, at_once: str | None, by: str | None, conditions: str | None, dry: bool
) -> Limit:
    key, when = _key(by or "address"), when_said(session, conditions)
    try:
        if at_once is not None:
            return ConcurrencyLimit(at_once, key, dry, when, conditions or "")
        assert rate is not None
        return RateLimit(rate, burst, key, dry, when, conditions or "")
    except ValueError as error:
        about = "number_at_once" if at_once is not None else "burst_size" if "number" in str(error) else "rate"
        raise bad_argument(about, error) from None


def _key(text: str) -> Key:
    try:
        return key_of(text)
    except ValueError as error:
        raise bad_argument("limit_key", error) from None


def _add(session: Session, service: Service, made: Limit) -> Reply:
    service.add_limit(made)
    return OK
