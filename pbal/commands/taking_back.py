"""UNSET, DROP, and the rules one by one: what takes a statement back.

A rule is a statement of which a service may have many: HEADER, ROUTE, REWRITE, CACHE, LIMIT, and those of plugins (VHOST, VPATH).
`show rules` prints them as they were said; DROP RULE takes one back, named by its number or by its words.
"""

import re
from collections.abc import Iterable
from typing import Final

from pbal.commands.looking.tables import table
from pbal.commands.session import Session
from pbal.config.render import own_rules
from pbal.lang.lexical import escaped
from pbal.model.errors import ConfigError
from pbal.model.plugin import Plugin
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.snapshot import own_specs
from pbal.model.telling import drop, every_statement, statements_or_why
from pbal.schema.commands import OK, CommandError, Reply, command
from pbal.schema.said import shown

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
"""Of a rule."""


@command
def unset(session: Session, tunable: str, owner: Service | Pool | None = None) -> Reply:
    """Give a tunable its default again: what DEFAULT says now, else what pbal says.

    Raises: UnknownName; ConfigError if it was not set, or if the service needs it.
    """
    target = session.target(tunable, owner)
    if isinstance(target, Service) and tunable.lower().startswith("extra."):
        target.set_extra(tunable.lower().removeprefix("extra."), None)
        return OK
    target.unset(tunable)
    return OK


@command
def unset_default(session: Session, tunable: str) -> Reply:
    """Take a DEFAULT back: services that you make later have pbal's own."""
    session.world.settings.unset(tunable)
    return OK


@command
def unset_server(session: Session, server_tunable: str) -> Reply:
    """Give a tunable of the whole process its default again."""
    session.world.process.unset(server_tunable)
    return OK


@command
def drop_service(session: Session, service: Service) -> Reply:
    """Remove a service. Requests in progress finish; parked polls get the empty answer; idle connections close.

    The console that says it cannot be removed: there may be no other.
    Raises: ConfigError while a selector sends requests to it: its default_service, a VHOST, a VPATH.
    """
    if session.console is service:
        raise ConfigError(f"this is the console '{service.name}': another one can remove it", about=service.name)
    session.world.drop_service(service)
    return OK


@command
def drop_pool(session: Session, pool: Pool) -> Reply:
    """Remove a pool.

    Raises: ConfigError while a service uses it.
    """
    session.world.drop_pool(pool)
    return OK


@command
def show_rules(session: Session, service: Service | None = None) -> Reply:
    """List the rules of each service, or of one: HEADER, ROUTE, REWRITE, CACHE, LIMIT, and the statements of its plugins.

    DROP RULE takes one back by its number or by its words. Rules of ROUTE, REWRITE and CACHE are tried in this order.
    """
    services = [service] if service is not None else sorted(session.world.services.values(), key=lambda each: each.name)
    rows = ((each.name, number, rule) for each in services for number, rule in enumerate(rules_of(each), 1))
    return table("service number rule", rows)


def rules_of(service: Service) -> list[str]:
    """The rules of a service as statements, its own first, as they have to be written."""
    own = list(own_rules(service.name, own_specs(service)))
    return own + [escaped(line) for name, plugin in service.plugins for line in statements_or_why(service, name, plugin)]


def _meant(service: Service) -> list[str]:
    """The same, with the values of variables in place of them: what a statement's argument is when it is carried out."""
    own = own_rules(service.name, own_specs(service, lambda said, text: text), str)
    return [*own, *(line for name, plugin in service.plugins for line in statements_or_why(service, name, plugin))]


@command
def drop_rule(session: Session, service: Service, rule: str) -> Reply:
    """Take one rule back: its number, or its words as `show rules` prints them.

    Raises: ConfigError if there is no such rule.
    """
    rules = rules_of(service)
    if _NUMBER.fullmatch(rule) and 0 < int(rule) <= len(rules):
        place = int(rule) - 1
    elif _words(shown(rule)) in (known := [_words(each) for each in rules]):
        place = known.index(_words(shown(rule)))
    elif _words(rule) in (known := [_words(each) for each in _meant(service)]):
        place = known.index(_words(rule))
    else:
        raise CommandError(f"service '{service.name}' has no rule {shown(rule)}", "rule", f"show rules {service.name} lists them")
    with session.world.changing():
        limits_from = len(service.rules)
        plugins_from = limits_from + len(service.limiting)
        if place < limits_from:
            service.use_rules(service.rules.without(place))
        elif place < plugins_from:
            service.drop_limit(service.limiting[place - limits_from])
        else:
            _drop_of_plugin(service, place - plugins_from)
    return OK


def drop_several(service: Service, rules: Iterable[str]) -> list[str]:
    """Take back the rules of plugins that are among these, which are said as `show rules` prints them. Returns the others.

    It looks through the service's rules once: of a thousand VHOSTs, DROP RULE would do so a thousand times. Raises: ConfigError.
    """
    known: dict[tuple[str, ...], list[tuple[str, Plugin, str]]] = {}
    for name, plugin, line in every_statement(service):
        known.setdefault(tuple(_words(escaped(line))), []).append((name, plugin, line))
    left: list[str] = []
    for rule in rules:
        places = known.get(tuple(_words(rule)))
        if places:
            drop(service, *places.pop(0))
        else:
            left.append(rule)
    return left


def _drop_of_plugin(service: Service, place: int) -> None:
    drop(service, *every_statement(service)[place])


def _words(rule: str) -> list[str]:
    """A rule without regard to its spacing."""
    head, equals, rest = rule.partition("=")
    return [*head.split(), equals, *rest.split()]
