"""HEADER, ROUTE, REWRITE and CACHE: the rules that are a service's own."""

from pbal.commands.session import Session
from pbal.model import conditions
from pbal.model.caching import CacheRule
from pbal.model.conditions import Conditions
from pbal.model.pool import Pool
from pbal.model.rules import ADD, INSERT, REMOVE, SET, HeaderRule
from pbal.model.service import Service
from pbal.model.steering import Rewrite, Route
from pbal.schema.commands import OK, CommandError, Reply, bad_argument, command
from pbal.schema.kinds import Kind
from pbal.schema.types import REGEX, Type

_CONDITIONS: Type[Conditions] = Type("condition", conditions.parse, lambda value: value.text)


def when_said(session: Session, text: str | None) -> Conditions | None:
    """What WHEN says. Raises: CommandError."""
    if text is None:
        return None
    try:
        when = _CONDITIONS.parse(text)
    except ValueError as error:
        raise _refusal("conditions", text, error) from None
    _warn(session, when.odd, "conditions")
    return when


def _is_response(word: str) -> bool:
    return word.lower() == "response"


def _refusal(argument: str, text: str, error: ValueError) -> CommandError:
    """What is wrong with a word of an argument; what it might have meant is found by that word."""
    refusal = bad_argument(argument, error)
    if refusal.span is not None:
        refusal.subject = text[slice(*refusal.span)]
    return refusal


def _warn(session: Session, odd: str, argument: str) -> None:
    """Say what is odd about an argument that was taken."""
    if odd:
        session.warn(odd, argument, kind=Kind.BAD_VALUE)


def _header(session: Session, service: Service, response: bool, verb: str, field: str, value: str | None, when: str | None) -> Reply:
    """A HEADER statement, whatever it says."""
    argument = "field_value" if verb == INSERT else "rule_value"
    try:
        rule = HeaderRule(response, verb, field, value, when_said(session, when), when or "")
    except ValueError as error:
        raise _refusal(argument, value or "", error) from None
    if why := rule.refused():
        raise CommandError(why, "field_name", kind=Kind.BAD_VALUE)
    if why := rule.refused_value():
        raise CommandError(why, argument, kind=Kind.BAD_VALUE)
    service.use_rules(service.rules.with_header(rule))
    return OK


@command
def header_insert(session: Session, service: Service, field: str, field_value: str) -> Reply:
    """Put a field into every request that the service sends on. It replaces the fields of the same name.

    The last HEADER statement about a name counts. On a selector it applies to every request that the selector hands on. HEADER REQUEST
    SET can do more: it takes variables, and conditions.
    Source: Perlbal manual, HEADER. differs: the name keeps its case; HEADER is an error where it would have no effect.
    """
    return _header(session, service, False, INSERT, field, field_value, None)


@command
def header_remove(session: Session, service: Service, field: str) -> Reply:
    """Remove a field from every request that the service sends on. `_` in the name counts as `-`.

    Source: Perlbal manual, HEADER. differs: as for INSERT.
    """
    return _header(session, service, False, REMOVE, field, None, None)


@command
def header_set(
    session: Session, service: Service, request_or_response: str, field: str, rule_value: str, conditions: str | None = None
) -> Reply:
    """Put a field into requests that go on, or into responses. It replaces the fields of the same name.

    REQUEST: on a reverse_proxy what nodes get, on a selector what goes on from it. RESPONSE: every response of the service, those that
    pbal makes itself included, errors too; not 1xx. Rules about a name are carried out in the order in which they were said, after the
    hooks of plugins. See RULES in pbal.conf(5) for the variables of a value and for WHEN.
    """
    return _header(session, service, _is_response(request_or_response), SET, field, rule_value, conditions)


@command
def header_add(
    session: Session, service: Service, request_or_response: str, field: str, rule_value: str, conditions: str | None = None
) -> Reply:
    """Put a field into requests that go on, or into responses, beside those of the same name. HEADER SET says the rest.

    A field of which a message has one at most cannot be added (RFC 9110 section 5.3): SET it.
    """
    return _header(session, service, _is_response(request_or_response), ADD, field, rule_value, conditions)


@command
def header_drop(session: Session, service: Service, request_or_response: str, field: str, conditions: str | None = None) -> Reply:
    """Remove a field from requests that go on, or from responses. `_` in the name counts as `-`. HEADER SET says the rest."""
    return _header(session, service, _is_response(request_or_response), REMOVE, field, None, conditions)


@command
def route(session: Session, service: Service, pool: Pool, conditions: str) -> Reply:
    """Send requests of a reverse_proxy to another pool than that of SET pool. The first ROUTE whose conditions hold counts.

    `show rules` numbers them in their order. A rule sees the request as it came, before REWRITE.
    """
    when = when_said(session, conditions)
    assert when is not None
    before = next((other for other in service.rules.routes if other.when == when and other.pool is not pool), None)
    if before is not None:
        _warn(session, f"it never counts: an earlier ROUTE sends the same requests to pool '{before.pool.name}'", "conditions")
    service.use_rules(service.rules.with_route(Route(pool, when, conditions)))
    return OK


@command
def rewrite(session: Session, service: Service, pattern: str, replacement: str, conditions: str | None = None) -> Reply:
    """Send nodes another path: the replacement stands in place of what a regular expression finds in it.

    The first REWRITE that finds something counts. The expression sees the path as a service reads it, as VPATH's does, and what is sent
    is made of that. The rest of the path stays, and so does the query. `$$1` is what the first group found, `$${name}` a named one.
    pbal refuses a request with 400 if the result has the segments . or ..
    """
    try:
        REGEX.parse(pattern)
    except ValueError as error:
        raise bad_argument("pattern", error) from None
    when = when_said(session, conditions)
    try:
        rule = Rewrite(pattern, replacement, when, conditions or "")
    except ValueError as error:
        raise _refusal("replacement", replacement, error) from None
    if any(other.pattern == pattern and other.when == when and other.to != replacement for other in service.rules.rewrites):
        _warn(session, "it never counts: an earlier REWRITE has the same pattern", "pattern")
    service.use_rules(service.rules.with_rewrite(rule))
    _warn(session, REGEX.odd(pattern), "pattern")
    return OK


@command
def cache(session: Session, service: Service, cache_words: str, conditions: str | None = None) -> Reply:
    """Say how long caches and browsers may keep the files of a web_server (Cache-Control). The first CACHE whose conditions hold counts.

    It says a duration such as `10m`, `12h`, `30d` or `1y`, directives such as `no-cache`, `no-store`, `private`, `immutable` or
    `s-maxage=1h`, or `off` for none. It is said with files and with 304, not with errors and lists of directories. `show rules` numbers
    them in their order.
    Source: RFC 9111 section 5.2.2.
    """
    try:
        rule = CacheRule(cache_words, when_said(session, conditions), conditions or "")
    except ValueError as error:
        raise _refusal("cache_words", cache_words, error) from None
    before = next((other for other in service.rules.caching if other.when is None or other.when == rule.when), None)
    if before is not None and before.words != rule.words:
        _warn(session, f"it never counts: an earlier CACHE says {before.words} of the same requests", "cache_words")
    service.use_rules(service.rules.with_cache(rule))
    return OK
