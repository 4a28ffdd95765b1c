"""HELP: what every statement, tunable, hook and counter is, read off its declaration.

A word may name several: `help plugins` tells of the statement and of the tunable. What begins with the words is told where nothing is
called by them exactly; else the answer is what was most likely meant.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from pbal.commands.session import Session
from pbal.lang.mistakes import did_you_mean
from pbal.model.hooks import HOOKS, Hook, hooks_of
from pbal.model.world import LoadedPlugin
from pbal.observe.counters import COUNTER, GAUGE, HISTOGRAM
from pbal.schema import perlbal
from pbal.schema.commands import CommandError, Reply, Text, command
from pbal.schema.kinds import Kind
from pbal.schema.meanings import APPLIES, TYPES, default, example, kind
from pbal.schema.pools import OF_POOLS, POOL
from pbal.schema.tunables import Applies, Tunable

_FORMS = {COUNTER: "counter: it only rises", GAUGE: "gauge: it can go down", HISTOGRAM: "histogram: it counts durations"}

Topic = list[str]
"""The lines about one thing."""


@command
def help_(session: Session, words: str | None = None) -> Reply:
    """List the statements; or explain a statement, a tunable, a hook, a counter or a loaded plugin, or all that begin with the words.

    Source: Perlbal manual, help. differs: it lists whole statements, and explains.
    """
    language = session.interpreter.language
    if not words:
        usages = sorted(language.syntax(rule) for rule in session.interpreter.registry.help_topics())
        more = ["", "help WORDS explains: a statement (help pool add), a tunable (help idle_timeout), a hook or a counter"]
        return Text([*usages, *more], prose=True)
    wanted = words.lower().replace("_", " ").split()
    topics = [*_statements(session, wanted), *_named(session, words.lower().strip())]
    if not topics:
        told = perlbal.told(" ".join(words.split()))
        if told:
            raise CommandError(told, "words", kind=Kind.NOT_BUILT_YET)
        raise CommandError(
            f"no statement, tunable, hook or counter is called '{words}'", "words", did_you_mean(words.lower(), _names(session))
        )
    return Text([line for topic in topics for line in (*topic, "")][:-1], prose=True)


def _names(session: Session) -> Iterator[str]:
    """All that help knows, by the names that one would type."""
    yield from (rule.replace("_", " ") for rule in session.interpreter.registry.help_topics())
    for table in _tables(session):
        yield from table


# -- statements ----------------------------------------------------------------------------------------------------


def _statements(session: Session, wanted: list[str]) -> Iterator[Topic]:
    language, registry = session.interpreter.language, session.interpreter.registry
    for rule in registry.help_topics():
        usages = language.syntax(rule).split(" | ")
        if rule.split("_")[: len(wanted)] == wanted or any(_begins(usage, wanted) for usage in usages):
            lines = registry.help_for(rule)[1].splitlines()
            if "<" in usages[0]:  # else the usage is an example itself
                lines.append(f"Example: {example_of(usages[0])}")
            yield [language.syntax(rule), *_indented(lines)]


_OPTIONAL = re.compile(r"\[[^\[\]]*\]")
_KIND = re.compile(r"<(\w+)>")
_SAMPLES = {
    "new_name": "web", "service_name": "web", "object_name": "web", "owner_name": "web", "target_name": "web", "selector_name": "front",
    "pool_name": "app", "plugin_name": "poll", "tunable": "idle_timeout", "server_tunable": "graceful_timeout", "value": "30s",
    "node": "10.0.0.1:8080", "switch": "on", "field_name": "X-Name", "field_value": "some words", "rule": "1", "files": "parts/*.conf",
    "user": "ann", "password": "secret", "marker": "end", "method": "GET", "url": "http://www.example.com/", "module": "headers",
    "pattern": "www.example.com", "regex": "^/static/", "queue": "lobby", "target": "lobby", "text": "hello", "whom": "web",
    "request_or_response": "RESPONSE", "rule_value": "some words", "conditions": "path ^/api/", "replacement": "/new", "rate": "10/s",
    "number_at_once": "20", "number": "1",
}  # fmt: skip
"""What an argument may be, by its kind."""


def example_of(usage: str) -> str:
    """A statement of that form, without what may be left out."""
    while (shorter := _OPTIONAL.sub("", usage)) != usage:
        usage = shorter
    return " ".join(_KIND.sub(lambda match: _SAMPLES.get(match[1], match[1].upper()), usage).split())


def _begins(usage: str, wanted: list[str]) -> bool:
    """Whether the key words of a usage begin with these words."""
    said = [word.lower() for word in usage.replace("[", " ").replace("]", " ").split() if word.isupper() or word == "?"]
    return said[: len(wanted)] == wanted


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


# -- what has a name -----------------------------------------------------------------------------------------------


def _tables(session: Session) -> tuple[Mapping[str, object], ...]:
    world = session.world
    return world.tunables, OF_POOLS, world.server_tunables, HOOKS, world.counters.all, world.plugins


def _named(session: Session, word: str) -> Iterator[Topic]:
    """What has the name, or else what begins with it."""
    world = session.world
    name = word.replace(" ", "_").rpartition(".")[2]
    exact = any(name in table for table in _tables(session))

    def called(one: str) -> bool:
        return one == name if exact else one.startswith(name)

    yield from (_tunable(t, f"SET {_service_for(session, t)}.{t.name}") for t in world.tunables.values() if called(t.name))
    yield from (_tunable(t, f"SET app.{t.name}", " of a pool") for t in POOL if called(t.name))
    yield from (_tunable(t, f"SERVER {t.name}", " of the process") for t in world.server_tunables.values() if called(t.name))
    yield from (_hook(hook) for hook in HOOKS.values() if called(hook.name))
    yield from (_plugin(loaded) for loaded in world.plugins.values() if called(loaded.name))
    for counter in world.counters.all.values():
        if called(counter.name):
            said = [counter.summary]
            if counter.labels:
                said.append(f"One for each {' and '.join(counter.labels)}.")
            shown = f"{counter.name}*" if counter.labels or counter.histogram else counter.name
            yield [f"{counter.name} (a {_FORMS[counter.kind]})", *_indented([*said, f"show counters LIKE {shown} shows it."])]


def _service_for(session: Session, tunable: Tunable) -> str:
    """A service that has the tunable, for an example."""
    fitting = [service.name for service in session.world.services.values() if tunable.fits(service.role)]
    return fitting[0] if fitting else "web"


def _tunable(tunable: Tunable, setting: str, of: str = "") -> Topic:
    facts = [f"Default: {default(tunable).strip('`')}."]
    if tunable.unit:
        facts.append(f"Unit: {tunable.unit}.")
    if tunable.roles:
        facts.append(f"Roles: {', '.join(sorted(tunable.roles))}.")
    takes_hold = APPLIES[tunable.applies] if tunable.applies is not Applies.NOW else "A change takes effect at once."
    lines = [tunable.summary, " ".join(facts), takes_hold]
    if tunable.type.name in TYPES:
        lines.append(f"{tunable.type.name}: {TYPES[tunable.type.name].text.replace('`', '')}")
    if tunable.source:
        lines.append(f"Source: {tunable.source}")
    return [f"{tunable.name} = {kind(tunable)} (a tunable{of})", *_indented([*lines, f"Example: {setting} = {example(tunable)}"])]


def _plugin(loaded: LoadedPlugin) -> Topic:
    """What its file says of it at the top, and what it brings."""
    said = (getattr(sys.modules.get(loaded.module), "__doc__", None) or "It says nothing of itself.").strip().splitlines()
    of = loaded.plugin_class
    brings = {
        "Tunables": [tunable.name for tunable in of.tunables],
        "Counters": [counter.name for counter in of.counters],
        "Statements": [function.__name__.removesuffix("_").replace("_", " ") for function in loaded.commands],
        "Hooks": sorted(hooks_of(of)),
        "Roles": sorted(of.roles),
    }
    lines = [*said, "", *(f"{what}: {', '.join(names)}." for what, names in brings.items() if names)]
    return [f"{loaded.name} (a plugin)", *_indented(lines)]


def _hook(hook: Hook) -> Topic:
    said = f"It returns {hook.returns}." if hook.returns else "What it returns is ignored."
    lines = [hook.summary, f"Roles: {', '.join(sorted(hook.roles))}.", said, "Example:"]
    lines += [f"  {line}" for line in hook.code.split("\n")]
    return [f"{hook.name}(self, {', '.join(hook.arguments)}) (a hook)", *_indented(lines)]
