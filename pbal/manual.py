"""The manual, from the tables: man/pbal.1, man/pbal.conf.5, man/pbal-console.7, man/pbal-perlbal.7, man/pbal-plugins.7, man/pbal-poll.7.

    python -m pbal.manual            writes the pages
    python -m pbal.manual --check    writes nothing; exit status 1 if a page is not what would be written

Statements come from the grammar (their usage) and their handlers (what they do), tunables, hooks and counters from their
declarations: nothing that the program knows is written down here a second time. What it does not know (how to think of
it, what a writer's side looks like in PHP) is prose in man/*.in, in a notation of four kinds of block:

    = TITLE            a section
    - term: text       an entry of a list; the text may go on in the next lines
        four blanks    a literal block
    anything else      a paragraph; `words` between back quotes come out bold

@NAME on a line of its own is where a table goes. A page has no date: it changes only when pbal does.
"""

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pbal import __version__, testing
from pbal.commands.interpreter import AT_ONCE, Interpreter
from pbal.http1.events import Head, RequestHead, ResponseHead
from pbal.lang.parser import Language, bundled_fragments, core_grammar
from pbal.model import asking
from pbal.model import explaining as explaining_module
from pbal.model.balance import Member
from pbal.model.chained import Chained
from pbal.model.conversation import Conversation, Wire
from pbal.model.exchange import Exchange
from pbal.model.hooks import HOOKS
from pbal.model.parking import Waiting
from pbal.model.plugin import Plugin
from pbal.model.pool import Node
from pbal.model.served import FileFound, Lookup
from pbal.model.service import Service
from pbal.model.variables import VARIABLES
from pbal.model.world import World
from pbal.observe import access
from pbal.observe import counters as counters_module
from pbal.observe import histogram as histogram_module
from pbal.observe import limits as limits_module
from pbal.observe.counters import COLLECTED, Counter
from pbal.observe.counters import CORE as CORE_COUNTERS
from pbal.plugins.poll import Poll
from pbal.plugins.poll.settings import COUNTERS as POLL_COUNTERS
from pbal.plugins.poll.settings import TUNABLES as POLL_TUNABLES
from pbal.reference import members
from pbal.schema import perlbal
from pbal.schema import tunables as tunables_module
from pbal.schema.commands import Registry
from pbal.schema.meanings import APPLIES, TYPES, default, kind
from pbal.schema.pools import POOL
from pbal.schema.roles import CORE
from pbal.schema.tunables import SERVER, Tunable
from pbal.sources import bundled

DIRECTORY = Path(__file__).resolve().parent.parent / "man"

Table = Callable[[], Iterator[str]]

# --- roff --------------------------------------------------------------------------------------------------

_SPECIAL = {"\\": "\\e", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", "-": "\\-", '"': "\\(dq"}


def literal(text: str) -> str:
    """Text that comes out as it is, octet for octet, and can be copied from the page."""
    escaped = "".join(_SPECIAL.get(c, c if ord(c) < 128 else f"\\[u{ord(c):04X}]") for c in text)
    return "\\&" + escaped if escaped.startswith(".") else escaped


def bold(text: str) -> str:
    """Literal text in bold."""
    return f"\\fB{literal(text)}\\fR"


def prose(text: str) -> str:
    """A line of running text; what is between back quotes is bold."""
    parts = re.split(r"`([^`]+)`", text)
    line = "".join(bold(part) if place % 2 else _running(part) for place, part in enumerate(parts))
    return "\\&" + line if line.startswith(("'", ".")) else line


def _running(text: str) -> str:
    """Between words '-' is a hyphen; alone, as in NAME, it is a dash that man's index looks for."""
    return re.sub(r"(?<! )\\-|\\-(?! )", "-", literal(text))


def entry(term: str, *paragraphs: str) -> Iterator[str]:
    """A term, already roff, and paragraphs of prose about it."""
    yield from (".TP", term)
    for place, paragraph in enumerate(paragraphs):
        if place:
            yield ".br"
        yield prose(paragraph)


def code(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they are, indented."""
    yield from (".PP", ".RS 4", ".nf")
    yield from (literal(line) for line in lines)
    yield from (".fi", ".RE")


def _block(lines: Sequence[str], tables: Mapping[str, Table]) -> Iterator[str]:
    first = lines[0]
    if first.startswith("= "):
        yield f".SH {first[2:]}"
    elif first.startswith("@"):
        yield from tables[first[1:]]()
    elif first.startswith("    "):
        yield from code(line[4:] for line in lines)
    elif first.startswith("- "):
        term, _, text = " ".join(lines)[2:].partition(": ")
        yield from entry(bold(term), re.sub(r"\s+", " ", text))
    else:
        yield from (".PP", prose(" ".join(lines)))


_STARTS = re.compile(r"= |- |@")


def _blocks(text: str) -> Iterator[list[str]]:
    """The blocks of a page's text: an empty line ends one (but not a literal one), and so does what begins the next."""
    block: list[str] = []
    for line in text.strip("\n").split("\n"):
        if line.startswith("    ") or (not line and block and block[0].startswith("    ")):
            ends = bool(block) and not block[0].startswith("    ")
        else:
            ends = bool(block) and (not line or bool(_STARTS.match(line)) or block[0].startswith(("    ", "= ", "@")))
        if ends:
            yield _without_blank_end(block)
            block = []
        if line or block:
            block.append(line)
    if block:
        yield _without_blank_end(block)


def _without_blank_end(block: list[str]) -> list[str]:
    while not block[-1]:
        block.pop()
    return block


def render(name: str, section: int, text: str, tables: Mapping[str, Table]) -> str:
    """A whole page."""
    out = [
        '.\\" Made by python -m pbal.manual; edit the .in file beside it, or the declarations.',
        f'.TH {literal(name.upper())} {section} "" "pbal {__version__}" "pbal manual"',
        ".ad l",
        ".nh",
    ]
    for block in _blocks(text):
        out += _block(block, tables)
    return "\n".join(out) + "\n"


# --- tables ------------------------------------------------------------------------------------------------


def _types() -> Iterator[str]:
    for name, meaning in TYPES.items():
        yield from entry(bold(name), meaning.text)


def tunable_table(tunables: Iterable[Tunable]) -> Iterator[str]:
    """An entry for each: type and bounds, default, what it does, where and when."""
    for tunable in tunables:
        facts = [f"Default: {default(tunable)}."]
        if tunable.roles:
            facts.append(f"Roles: {', '.join(sorted(tunable.roles))}.")
        facts += [APPLIES[tunable.applies]] if APPLIES[tunable.applies] else []
        if tunable.perlbal is not None:
            facts.append(f"With SERVER compatible = perlbal: `{tunable.perlbal}`.")
        if tunable.source.startswith("differs:"):
            facts.append(f"Differs from Perlbal: {tunable.source.removeprefix('differs:').strip()}.")
        yield from entry(f"{bold(tunable.name)} = {literal(kind(tunable))}", tunable.summary, " ".join(facts))


def counter_table(counters: Iterable[Counter]) -> Iterator[str]:
    """An entry for each counter."""
    for counter in counters:
        more = f" By {' and '.join(counter.labels)}." if counter.labels else ""
        more += " This is a gauge: it can go down." if counter.gauge else " This is a histogram." if counter.histogram else ""
        yield from entry(bold(counter.name), counter.summary + more)


def _hooks(examples: bool) -> Iterator[str]:
    for hook in HOOKS.values():
        returns = f"It returns {hook.returns}." if hook.returns else "pbal ignores what it returns."
        roles = f"{returns} Roles: {', '.join(sorted(hook.roles))}."
        yield from entry(f"{bold(hook.name)}(self, {', '.join(hook.arguments)})", hook.summary, roles)
        if examples:
            yield from (".RS", ".nf", *(literal(line) for line in hook.code.split("\n")))
            yield from (".fi", ".RE")


def _members(*classes: tuple[object, tuple[str, ...]]) -> Table:
    """A table of what classes or modules offer: all that is public, or the members named."""

    def table() -> Iterator[str]:
        for of, names in classes:
            for shown, text in members(of, *names):
                yield from entry(bold(shown), text)

    return table


def _plugin(name: str) -> tuple[str, type[Plugin]]:
    """The text with which the file of a bundled plugin opens, without the part that is for its authors, and its class."""
    module = importlib.import_module(f"pbal.plugins.{name}")
    (found,) = (
        value for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Plugin) and value is not Plugin and value.__module__.startswith(module.__name__)
    )  # fmt: skip
    return inspect.getdoc(module) or "", found


class Statements:
    """Usage and meaning of every statement, of the core and of the bundled plugins."""

    def __init__(self) -> None:
        self.language = Language(bundled_fragments())
        registry: Registry = Interpreter(World()).registry
        self.plugins = {name: _plugin(name) for name in bundled()}
        for name, (_, plugin) in self.plugins.items():
            registry.register(name, plugin.commands)
        self.registry = registry

    def core(self, queries: bool = False, of_consoles: bool = False) -> Iterator[str]:
        """Statements of the core in the order of the grammar: queries, what is for consoles only, or the others."""
        grammar, language = core_grammar(), Language()
        kinds = {rule: (rule in language.queries, rule in AT_ONCE) for rule in language.rules}
        chosen = (rule for rule, kind in kinds.items() if kind == (queries, of_consoles))
        return self.table(sorted(chosen, key=lambda rule: grammar.find(f"\n{rule}:")))

    def of(self, plugin: type[Plugin]) -> Iterator[str]:
        """Statements of a bundled plugin."""
        return self.table(handler.__name__.removesuffix("_") for handler in plugin.commands)

    def bundled(self) -> Iterator[str]:
        """A part for each bundled plugin that has no page of its own: what its file says, its statements, tunables and counters."""
        for name, (text, plugin) in self.plugins.items():
            if plugin is Poll:
                continue
            yield f".SS {name}"
            for block in _blocks(text):
                yield from _block(block, {})
            if plugin.commands:
                yield from (".PP", "Statements:", *self.of(plugin))
            if plugin.tunables:
                yield from (".PP", "Tunables:", *tunable_table(plugin.tunables))
            if plugin.counters:
                yield from (".PP", "Counters:", *counter_table(plugin.counters))

    def table(self, rules: Iterable[str]) -> Iterator[str]:
        """An entry for each rule: usage, then its handler's docstring."""
        for rule in rules:
            usages = [bold(usage) for usage in self.language.syntax(rule).split(" | ")]
            yield from (".TP", usages[0])
            for usage in usages[1:]:
                yield from (".TQ", usage)
            yield from self._meaning(rule)

    def _meaning(self, rule: str) -> Iterator[str]:
        """What help says."""
        first = True
        for line in self.registry.help_for(rule)[1].splitlines():
            if not line:
                continue
            if line.startswith("Source:") and not first:
                yield ".br"
            yield prose(line)
            first = False


class FromPerlbal:
    """Every name of Perlbal, and what became of it here."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def tunables(self) -> Iterator[str]:
        """Of services."""
        renamed = {"persist_client_timeout": "Sets idle_timeout and persist_client_idle_timeout."}
        return self._names([tunable for tunable in CORE if not tunable.source.startswith("pbal")], perlbal.SERVICE, renamed)

    def pool(self) -> Iterator[str]:
        """Of pools."""
        return self._names([tunable for tunable in POOL if not tunable.source.startswith("pbal")], {}, {})

    def server(self) -> Iterator[str]:
        """Of SERVER."""
        without = {row.name: f"No meaning: {row.why}." for row in perlbal.MEANINGLESS.values()}
        return self._names([tunable for tunable in SERVER if not tunable.source.startswith("pbal")], {}, without)

    def _names(self, built: Iterable[Tunable], unbuilt: Mapping[str, perlbal.Unbuilt], others: Mapping[str, str]) -> Iterator[str]:
        rows = {tunable.name: self._difference(tunable) for tunable in built}
        rows |= {name: _not_built(row) for name, row in unbuilt.items()} | dict(others)
        for name, state in sorted(rows.items()):
            yield from entry(bold(name), state)

    def _difference(self, tunable: Tunable) -> str:
        if not tunable.source.startswith("differs:"):
            return "The same."
        return f"Differs: {tunable.source.removeprefix('differs:').strip()}."

    def defaults(self) -> Iterator[str]:
        """What SERVER compatible = perlbal changes."""
        for tunable in sorted((*CORE, *SERVER), key=lambda each: each.name):
            if tunable.perlbal is not None:
                yield from entry(bold(tunable.name), f"{default(tunable)} becomes `{tunable.perlbal}`.")

    def plugins(self) -> Iterator[str]:
        """The plugins that come with Perlbal."""
        rows = {}
        for name, (text, _) in self._statements.plugins.items():
            said = re.search(r"Source: Perlbal's (\w+)\.(?:\s+differs:\s+((?:.+\n?)+))?", text)
            if said is not None:
                differs = " ".join((said[2] or "").split()).removesuffix(".")
                rows[said[1]] = f"Built: LOAD {name}." + (f" Differs: {differs}." if differs else "")
        for name, state in sorted(rows.items(), key=lambda each: each[0].lower()):
            yield from entry(bold(name), state)

    def hooks(self) -> Iterator[str]:
        """The hooks of its plugins."""
        rows = {row.name: f"Not here: {row.why}." for row in perlbal.HOOKS.values()}
        for hook in HOOKS.values():
            if not hook.own:
                differs = hook.summary.partition("Differs from Perlbal: ")[2].removesuffix(".")
                rows[hook.name] = f"Differs: {differs}." if differs else "The same."
        for name, state in sorted(rows.items()):
            yield from entry(bold(name), state)

    def foreign(self) -> Iterator[str]:
        """Kinds of plugins that others wrote."""
        for foreign in perlbal.FOREIGN:
            instead = foreign.instead + (" NAME" if foreign.instead.endswith("pbal plugin new") else "")
            first = instead if "_" in instead.split()[0] else instead[0].upper() + instead[1:]
            yield from entry(bold(foreign.kind), f"{first}.")

    def commands(self) -> Iterator[str]:
        """What a statement or a console command may begin with."""
        rows: dict[str, str] = {}
        for word in perlbal.COMMANDS:
            rules = [rule for rule in sorted(self._statements.language.rules) if self._begins(rule, word.upper())]
            states = [state for rule in rules if (state := self._state(rule, word.upper()))]
            if rules:
                rows[word.upper()] = " ".join(dict.fromkeys(states)) or "The same."
            else:
                rows.setdefault(word.upper(), "Not built yet.")
        for name, state in sorted(rows.items()):
            yield from entry(bold(name), state)

    def _begins(self, rule: str, word: str) -> bool:
        return any(usage.split()[0] == word for usage in self._statements.language.syntax(rule).split(" | "))

    def _state(self, rule: str, word: str) -> str:
        """How a statement differs; '' if it does not, or if Perlbal has none of that second word."""
        text = self._statements.registry.help_for(rule)[1]
        differs = text.partition("differs:")[2].partition("\n")[0].strip().removesuffix(".")
        if not differs:
            return ""
        usage = next(usage for usage in self._statements.language.syntax(rule).split(" | ") if usage.split()[0] == word)
        said = " ".join(part for part in usage.split() if part.isupper() and part.isalpha())
        return f"{said} differs: {differs}."


def _not_built(row: perlbal.Unbuilt) -> str:
    return "Not built yet" + (f": {row.instead}." if row.instead else ".")


def _terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Words, and what they mean."""
    for word, meaning in pairs:
        yield from (".TP", f".B {literal(word)}", prose(f"{meaning[0].upper()}{meaning[1:]}."))


_LIFE = (
    "check",
    "open",
    "changed",
    "wants_body",
    "quiesce",
    "carry",
    "resume",
    "adopt",
    "close",
    "service_disabled",
    "targets",
    "complete",
    "dumpconfig",
    "measured",
    "explain",
    "limits",
)
_EXCHANGE = (
    "stream", "home", "service", "asked", "high", "request", "body_limit", "body_most", "stage", "method", "path", "plain_path",
    "client_address", "believed", "set_field", "asked_about", "read_body", "body_size", "request_id", "traceparent", "log", "note",
    "conceal", "shown", "answered", "respond", "error", "park", "hand_to", "go_on", "read_first", "waits_for", "collecting",
)  # fmt: skip
_ACCOUNT = ("started", "asked_at", "answered_at", "received", "sent", "status", "attempts", "node", "cause")
_HEAD = ("minor", "headers", "block", "fields", "framing", "keep_alive", "underscores")
_REQUEST = ("method", "target", "path", "query", "host", "expect_continue", "upgrade")


# --- the pages ---------------------------------------------------------------------------------------------


def source(name: str) -> str:
    """The prose of a page."""
    return (DIRECTORY / f"{name}.in").read_text(encoding="utf-8")


def pages() -> dict[str, str]:
    """File name to content of every page."""
    statements = Statements()
    conf: dict[str, Table] = {
        "statements": statements.core,
        "bundled": statements.bundled,
        "types": _types,
        "tunables": lambda: tunable_table(CORE),
        "pool": lambda: tunable_table(POOL),
        "server": lambda: tunable_table(SERVER),
        "counters": lambda: counter_table((*CORE_COUNTERS, *COLLECTED)),
        "access_fields": lambda: _terms((field.name, field.summary) for field in access.FIELDS.values()),
        "access_words": lambda: _terms(
            (f"{name} {word.decode()}", said)
            for name, words in (("kind", access.KINDS), ("end", access.ENDS), ("phase", access.PHASES))
            for word, said in words.items()
        ),
        "variables": lambda: _terms((f"$${name}", summary) for name, (summary, _) in VARIABLES.items()),
        "hooks": lambda: _hooks(examples=False),
    }
    plugins: dict[str, Table] = {
        "hooks": lambda: _hooks(examples=True),
        "life": _members((Plugin, _LIFE)),
        "exchange": _members((Exchange, _EXCHANGE), (access.Account, _ACCOUNT)),
        "request": _members((Head, _HEAD), (RequestHead, _REQUEST)),
        "response": _members((ResponseHead, ("status", "reason"))),
        "files": _members((Lookup, ("path",)), (FileFound, ("path", "size", "modified", "read"))),
        "waiting": _members((Waiting, ("peer_name", "answer", "begin", "push", "finish", "upgrade", "unsent", "repark", "kick"))),
        "conversation": _members((Conversation, ("begin", "received", "ended", "gone")), (Wire, ("peer_name", "unsent", "write", "close"))),
        "service": _members(
            (Service, ("name", "trust", "ask", "queues")),
            (Node, ("endpoint",)),
            (Member, ("active", "connecting", "weight", "backup", "full")),
            (Chained, ("plugin",)),
            (asking, ("NodeAnswer", "NoAnswer")),
            (World, ("service", "pool", "log_limited", "instances")),
        ),
        "declarations": _members(
            (tunables_module, ("Tunable",)),
            (Tunable, ("parse",)),
            (counters_module, ("Counter",)),
            (histogram_module, ("Histogram",)),
            (limits_module, ("Limit",)),
            (explaining_module, ("Explanation",)),
        ),
        "testing": _members((testing, ("running", "Answer")), (testing.Running, ())),
    }
    console: dict[str, Table] = {
        "console": lambda: statements.core(of_consoles=True),
        "queries": lambda: statements.core(queries=True),
    }
    poll: dict[str, Table] = {
        "statements": lambda: statements.of(Poll),
        "tunables": lambda: tunable_table(POLL_TUNABLES),
        "counters": lambda: counter_table(POLL_COUNTERS),
    }
    former = FromPerlbal(statements)
    of_perlbal: dict[str, Table] = {
        "perlbal_tunables": former.tunables,
        "perlbal_pool": former.pool,
        "perlbal_server": former.server,
        "perlbal_defaults": former.defaults,
        "perlbal_plugins": former.plugins,
        "perlbal_foreign": former.foreign,
        "perlbal_hooks": former.hooks,
        "perlbal_commands": former.commands,
    }
    return {
        "pbal.1": render("pbal", 1, source("pbal.1"), {}),
        "pbal.conf.5": render("pbal.conf", 5, source("pbal.conf.5"), conf),
        "pbal-console.7": render("pbal-console", 7, source("pbal-console.7"), console),
        "pbal-plugins.7": render("pbal-plugins", 7, source("pbal-plugins.7"), plugins),
        "pbal-perlbal.7": render("pbal-perlbal", 7, source("pbal-perlbal.7"), of_perlbal),
        "pbal-poll.7": render("pbal-poll", 7, source("pbal-poll.7"), poll),
    }


def stale(directory: Path) -> list[str]:
    """Names of pages that are missing, or are not what would be written."""
    return [
        name for name, text in pages().items() if not (directory / name).is_file() or (directory / name).read_text(encoding="utf-8") != text
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the manual, or check it. Exit status: 0, or 1 for a page that has drifted."""
    parser = argparse.ArgumentParser(prog="python -m pbal.manual", description="Write man/ from the declarations.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page has drifted")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where the pages are")
    options = parser.parse_args(argv)
    drifted = stale(options.directory)
    if options.check:
        for name in drifted:
            print(f"{options.directory / name}: drifted; python -m pbal.manual writes it", file=sys.stderr)
        return 1 if drifted else 0
    options.directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (options.directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
