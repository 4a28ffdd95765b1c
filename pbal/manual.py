"""The manual, from the tables: man/pbal.1, man/pbal.conf.5, man/pbal-poll.7.

    python -m pbal.manual            writes the pages
    python -m pbal.manual --check    writes nothing; exit status 1 if a page is not what would be written

Statements come from the grammar (their usage) and their handlers (what they do), tunables, hooks and counters from their
declarations: nothing that the program knows is written down here a second time. What it does not know (how to think of
it, what a writer's side looks like in PHP) is prose in this file, in a notation of four kinds of block:

    = TITLE            a section
    - term: text       an entry of a list; the text may go on in the next lines
        four blanks    a literal block
    anything else      a paragraph; `words` between back quotes come out bold

@NAME on a line of its own is where a table goes. A page has no date: it changes only when pbal does.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pbal import __version__
from pbal.commands.interpreter import Interpreter
from pbal.lang.parser import Language, bundled_fragments, core_grammar
from pbal.model.hooks import HOOKS
from pbal.model.plugin import Plugin
from pbal.model.world import World
from pbal.observe.counters import CORE as CORE_COUNTERS
from pbal.observe.counters import Counter
from pbal.plugins.poll import Poll
from pbal.plugins.poll.settings import COUNTERS as POLL_COUNTERS
from pbal.plugins.poll.settings import TUNABLES as POLL_TUNABLES
from pbal.plugins.vhosts import Vhosts
from pbal.plugins.vpaths import Vpaths
from pbal.schema.commands import Registry
from pbal.schema.tunables import CORE, POOL, SERVER, Applies, Tunable

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
        '.\\" Made by python -m pbal.manual; edit pbal/manual.py or the declarations it reads.',
        f'.TH {literal(name.upper())} {section} "" "pbal {__version__}" "pbal manual"',
        ".ad l",
        ".nh",
    ]
    for block in _blocks(text):
        out += _block(block, tables)
    return "\n".join(out) + "\n"


# --- tables ------------------------------------------------------------------------------------------------

_APPLIES = {
    Applies.NOW: "",
    Applies.NEXT_CONNECTION: "A change is for connections made later.",
    Applies.NEXT_ENABLE: "A change takes hold when the service is enabled.",
}

TYPES = {
    "bool": "`on` or `off`; also yes, no, true, false, 1, 0.",
    "int": "A whole number in decimal digits.",
    "size": "Octets: a number, or one with `b`, `k`, `m` or `g`, in powers of 1024.",
    "duration": "A time: a number with `ms`, `s`, `m` or `h`; seconds without. `1.5s` is one and a half.",
    "regex": "A regular expression as Python's `re` has it, on octets; case counts.",
    "directory": "An existing directory; a relative path begins at the configuration file.",
    "listen": "`PORT` (every address), `ADDRESS:PORT` or `[IPV6]:PORT`; port 0 is one the system chooses.",
    "networks": "Networks as `10.0.0.0/8` or `::1`, apart by blanks or commas.",
    "words": "Words, apart by blanks or commas.",
    "text": "Text to the end of the line.",
    "pool": "The name of a pool.",
    "service": "The name of a service.",
    "store": "`memory`, or `memcached HOST:PORT ...`; without a port it is 11211.",
    "sources": "Sources of queue names, apart by blanks: see QUEUE NAMES.",
    "regex or off": "A regular expression, or `off`.",
    "origins or off": "Origins as `https://chat.example`, apart by blanks; `*` for all; or `off`.",
}
"""What is written for a value, by the name of its type. Types that are a choice of words explain themselves."""


def _types() -> Iterator[str]:
    for name, meaning in TYPES.items():
        yield from entry(bold(name), meaning)


def _bounds(tunable: Tunable) -> str:
    if tunable.minimum and tunable.maximum:
        return f", from {tunable.minimum} to {tunable.maximum}"
    if tunable.minimum:
        return f", {tunable.minimum} at least"
    return f", {tunable.maximum} at most" if tunable.maximum else ""


def _default(tunable: Tunable) -> str:
    return {None: "unset", "": "empty"}.get(tunable.default, f"`{tunable.default}`")


def tunable_table(tunables: Iterable[Tunable]) -> Iterator[str]:
    """An entry for each: type and bounds, default, what it does, where and when."""
    for tunable in tunables:
        kind = tunable.type.name if tunable.type.name in TYPES else " or ".join(tunable.type.choices)
        facts = [f"Default: {_default(tunable)}."]
        if tunable.roles:
            facts.append(f"Roles: {', '.join(sorted(tunable.roles))}.")
        facts += [_APPLIES[tunable.applies]] if _APPLIES[tunable.applies] else []
        if tunable.source.startswith("differs:"):
            facts.append(f"Differs from Perlbal: {tunable.source.removeprefix('differs:').strip()}.")
        yield from entry(f"{bold(tunable.name)} = {literal(kind + _bounds(tunable))}", tunable.summary, " ".join(facts))


def counter_table(counters: Iterable[Counter]) -> Iterator[str]:
    """An entry for each counter."""
    for counter in counters:
        yield from entry(bold(counter.name), counter.summary + (" Goes down again." if counter.gauge else ""))


def _hooks() -> Iterator[str]:
    for hook in HOOKS.values():
        roles = f"Roles: {', '.join(sorted(hook.roles))}."
        yield from entry(f"{bold(hook.name)}(self, {', '.join(hook.arguments)})", hook.summary, roles)


class Statements:
    """Usage and meaning of every statement, of the core and of the bundled plugins."""

    def __init__(self) -> None:
        self.language = Language(bundled_fragments())
        registry: Registry = Interpreter(World()).registry
        for plugin in (Poll, Vhosts, Vpaths):
            registry.register(plugin.__name__, plugin.commands)
        self.registry = registry

    def core(self, queries: bool) -> Iterator[str]:
        """Core statements or queries, in the order of the grammar."""
        grammar = core_grammar()
        boundary = grammar.index("\n?query:")
        places = {rule: grammar.find(f"\n{rule}:") for rule in Language().rules}
        chosen = sorted((place, rule) for rule, place in places.items() if (place > boundary) == queries)
        return self.table(rule for _, rule in chosen)

    def of(self, *plugins: type[Plugin]) -> Iterator[str]:
        """Statements of bundled plugins."""
        return self.table(handler.__name__.removesuffix("_") for plugin in plugins for handler in plugin.commands)

    def table(self, rules: Iterable[str]) -> Iterator[str]:
        """An entry for each rule: usage, then its handler's docstring."""
        for rule in rules:
            usages = [bold(usage) for usage in self.language.syntax(rule).split(" | ")]
            yield from (".TP", usages[0])
            for usage in usages[1:]:
                yield from (".TQ", usage)
            yield from self._meaning(rule)

    def _meaning(self, rule: str) -> Iterator[str]:
        """The docstring, without what it says to programmers only."""
        first = True
        for line in self.registry.help_for(rule)[1].splitlines():
            if not line or line.startswith("Raises:"):
                continue
            if line.startswith("Source:") and not first:
                yield ".br"
            yield prose(line)
            first = False


# --- the pages ---------------------------------------------------------------------------------------------

PBAL_1 = r"""
= NAME
pbal - reverse proxy, web server and selector that parks long polls

= SYNOPSIS
`pbal` [`-c` FILE] [`--log-level` LEVEL]

`pbal check` FILE

`pbal --version`

= DESCRIPTION
pbal listens for HTTP/1.1 and does with each request what the service it came to is for: a `reverse_proxy` asks a node of
a pool, a `web_server` answers with a file, a `selector` hands the request to another service, and a `management` service
is a console on which all of it can be looked at and changed while it runs. With the plugin `poll` a service holds long
polls itself, by the ten thousand, and answers each the moment there is a message for it; see `pbal-poll(7)`.

The configuration is a list of statements, one a line; the console takes the same statements. Both are described in
`pbal.conf(5)`. pbal stays in the foreground and logs to standard error.

= OPTIONS
- -c FILE, --config FILE: The configuration to run. Without it, /etc/pbal/pbal.conf.
- --log-level LEVEL: Least level that is logged: debug, info, warning or error. It goes before `SERVER log_level`.
- --version: Print the version and end.
- check FILE: Read a configuration and report every mistake in it, each with its line, the word at fault and the likely
  fix. Nothing is opened. A mistake is reported once; what only follows from it is not.

= THE CONSOLE
A service of role management is a line console, for `telnet(1)`, `nc(1)` and scripts. `help` lists the statements, `help
pool add` explains one. A statement is answered `OK`, or `ERROR:` and the reason; the last line of a list is a single dot.
After a query, `AS JSON` gives the same as JSON. Whoever reaches the console rules the process: let it listen on 127.0.0.1.

= SIGNALS
- SIGTERM, SIGINT: The first ends pbal gracefully: listeners close, parked polls get their empty answer, requests in flight
  may finish for `graceful_timeout`. A second ends it at once.

= EXIT STATUS
- 0: A clean end; for `check`, a configuration without mistakes.
- 1: The configuration has mistakes or cannot be read, or a service could not be opened.
- 2: The command line was wrong.

= FILES
- /etc/pbal/pbal.conf: The configuration, if none is named.

= EXAMPLES
A proxy before two nodes, with a console:

    CREATE POOL app
      POOL app ADD 10.0.0.10:8080
      POOL app ADD 10.0.0.11:8080

    CREATE SERVICE site
      SET role   = reverse_proxy
      SET listen = 0.0.0.0:80
      SET pool   = app
    ENABLE site

    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:16000
    ENABLE console

Check it, run it, ask it:

    $ pbal check site.conf
    site.conf: good
    $ pbal -c site.conf &
    $ echo 'show pool app' | nc -N 127.0.0.1 16000

= SEE ALSO
`pbal.conf(5)`, `pbal-poll(7)`
"""

PBAL_CONF_5 = r"""
= NAME
pbal.conf - statements, tunables, hooks and counters of pbal

= DESCRIPTION
One statement a line, in a file or on the console; what boots also works live. Key words match in any case, names of
services and pools too. Indentation is decoration, and there is no continuation of lines.

- #: Begins a comment, at the start of a line or after a blank.
- $NAME, ${NAME}: The value of an environment variable.
- ${ip:eth0}: The IPv4 address of an interface.
- "...": A value wholly in quotes loses them; `\"` and `\\` in it stand for a quote and a backslash. A value needs them if it
  begins or ends with a blank, or holds a blank before a `#`.

In the usages below <name> stands for an argument, and [ ] for what may be left out. CREATE and USE make an object the current
one: `SET` without a name is about it.

= STATEMENTS
@statements

= QUERIES
They change nothing, and may be followed by `AS JSON`.

@queries

= STATEMENTS OF SELECTOR PLUGINS
After `LOAD vhosts` and `LOAD vpaths`, for a selector that has the plugin in its `plugins`. The statements of the plugin
poll are in `pbal-poll(7)`.

@selector_statements

= VALUES
@types

= TUNABLES OF A SERVICE
`SET name = value`. Where nothing else is said a change holds at once, also for what is under way.

@tunables

= PARAMETERS OF A POOL
`SET name = value` after CREATE POOL or USE.

@pool

= PARAMETERS OF THE PROCESS
`SERVER name = value`.

@server

= COUNTERS
`SHOW COUNTERS` prints them. They begin at 0 when pbal starts.

@counters

= PLUGINS AND HOOKS
A plugin is a Python file, or a package, with one subclass of Plugin in it; it imports pbal.api and nothing else of pbal.
`LOAD` finds those that come with pbal (poll, vhosts, vpaths) and those in `plugin_path`; `SET plugins` puts them into a
service, which has an instance of its own. `RELOAD` swaps a changed file in, under load, and leaves everything as it was
when the new one has a fault. A method marked with a hook's name runs at that moment:

    from pbal.api import Exchange, Plugin, Verdict, hook

    class Teapot(Plugin):
        @hook.start_http_request
        def refuse_coffee(self, exchange: Exchange) -> Verdict:
            if not exchange.request.target.startswith(b"/coffee"):
                return Verdict.PASS
            exchange.respond(418, (), b"a teapot")
            return Verdict.TAKEN

A hook answers PASS, and the next one decides, or TAKEN, and the exchange is the plugin's. It must not wait: what needs time
takes the exchange and answers later. An exception answers that one request with 500. A hook that does not exist is
an error of LOAD, never one that quietly does not fire.

@hooks

= SEE ALSO
`pbal(1)`, `pbal-poll(7)`
"""

PBAL_POLL_7 = r"""
= NAME
pbal-poll - long polls that wait in pbal, and how to send them messages

= DESCRIPTION
A client asks for messages with a request that is a poll: its path matches `poll_uri`. If a queue of that poll holds something,
the answer is there at once; otherwise the poll is parked. A parked poll costs no backend, no task and next to no memory. It
ends when a message comes (the answer is sent within milliseconds), when `poll_timeout` is over (the empty answer), when a
newer poll takes its place (`poll_duplicate`), when its client goes, or by hand from the console.

Messages come over HTTP (`poll_publish_uri`), from the console, or from any program that can write to memcached.

    LOAD poll

    CREATE POOL app
      POOL app ADD 127.0.0.1:8000

    CREATE SERVICE chat
      SET role       = reverse_proxy
      SET listen     = 127.0.0.1:8080
      SET pool       = app
      SET plugins    = poll
      SET poll_uri   = ^/poll/(?P<queue>[\w.-]+)$
      SET poll_store = memcached 127.0.0.1:11211
    ENABLE chat

What is neither a poll nor a publish goes where it would go without the plugin. It works on reverse_proxy and on web_server
services.

= TUNABLES
@tunables

= TYPES OF VALUES
As in `pbal.conf(5)`, and two more. A `store` is `memory`, or `memcached HOST:PORT ...`, port 11211 if none is said.
`sources` are as follows.

= QUEUE NAMES
`poll_queue` lists where names come from; the first source that yields any wins. One that yields several makes the poll wait on
all of them, 32 at most.

- uri:GROUP: A named group of poll_uri.
- query:NAME: A parameter of the query; `?q=a&q=b` is two queues.
- header:NAME: A header field.
- cookie:NAME: A cookie.
- xml:PATH: Elements of an XML body, as `user/chat`, or `user/@name` for an attribute.
- json:PATH: Members of a JSON body, as `user.chats`; a list is several.

The key in the store is `poll_key_prefix` and the name. A name that memcached would refuse (a blank, a control octet, more than 250
octets with the prefix) is answered 400.

= ANSWERS
- raw: The stored octets, one message after another. Empty: 204.
- lines: One message a line. Empty: 200 without a body.
- xml: `<messages><queue name="a">...</queue></messages>`, the messages as they are.
- json: `{"queues": {"a": ["..."]}}`; a message that is not UTF-8 is `{"base64": "..."}`.

A publish is answered 202 and `{"queue": "a", "bytes": 12, "parked": 1}`. A message reaches one poll, once, unless `poll_duplicate`
is all; messages of one queue keep their order. If a client has gone when its answer is written, the messages go back in
front of the queue.

= THE WRITER'S CONTRACT
Three commands, with any memcached client:

    append KEY MESSAGE            the queue exists: done
    add    KEY MESSAGE, ttl       NOT_STORED above: begin the queue
    append KEY MESSAGE            NOT_STORED again: somebody was faster

The key is prefix and name, as `poll:alice`. The message carries its framing: with `poll_framing = newline` it ends with a newline,
`5:hello,` is one for netstring, and with none nothing is added. Values are plain: no serializer, no compression, flags 0,
because append joins octets and knows nothing of what they mean. The ttl is that of `poll_ttl`, in seconds.

Several memcacheds: see KETAMA for the clients that agree with pbal.

Python, blocking (pymemcache) and with asyncio (aiomcache); pbal.queue comes with pbal and is the contract:

    from pymemcache.client.base import Client
    from pbal.queue import put

    put(Client(("127.0.0.1", 11211)), b"poll:alice", b"hello\n", ttl=300)

    from aiomcache import Client
    from pbal.queue import aput

    await aput(Client("127.0.0.1", 11211), b"poll:alice", b"hello\n", ttl=300)

Python without pbal; with pymemcache noreply=False is needed, or a client says yes whatever happened:

    def put(client, key, message, ttl=300):
        return (client.append(key, message, noreply=False)
                or client.add(key, message, ttl, noreply=False)
                or client.append(key, message, noreply=False))

PHP (memcached, the extension made of libmemcached); it compresses unless told not to:

    $cache = new Memcached();
    $cache->setOption(Memcached::OPT_COMPRESSION, false);
    $cache->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);
    $cache->addServer('127.0.0.1', 11211);

    function put($cache, $key, $message, $ttl = 300) {
        return $cache->append($key, $message)
            || $cache->add($key, $message, $ttl)
            || $cache->append($key, $message);
    }
    put($cache, 'poll:alice', "hello\n");

Ruby (dalli); raw, or it marshals:

    require 'dalli'
    CACHE = Dalli::Client.new('127.0.0.1:11211', compress: false)

    def put(key, message, ttl = 300)
      CACHE.append(key, message) ||
        CACHE.add(key, message, ttl, raw: true) ||
        CACHE.append(key, message)
    end
    put('poll:alice', "hello\n")

Perl (Cache::Memcached::Fast):

    use Cache::Memcached::Fast;
    my $cache = Cache::Memcached::Fast->new({
        servers => ['127.0.0.1:11211'], compress_threshold => -1,
    });

    sub put {
        my ($key, $message, $ttl) = @_;
        return $cache->append($key, $message)
            || $cache->add($key, $message, $ttl // 300)
            || $cache->append($key, $message);
    }
    put('poll:alice', "hello\n");

By hand, to try it:

    printf 'add poll:alice 0 300 6\r\nhello\n\r\n' | nc -N 127.0.0.1 11211

= KETAMA
With several memcacheds a key is on one of them, and writers must choose the one that pbal chooses. pbal spreads keys as libmemcached
does with MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED and equal weights: 160 points of MD5 a server, over `host:port-N`, and over
`host-N` where the port is 11211. The servers must be written alike everywhere: 127.0.0.1 and localhost are two servers to a ring.

- agree: PHP memcached with OPT_LIBKETAMA_COMPATIBLE; Python pylibmc with behaviors={"ketama_weighted": True}; whatever else
  sets that behavior of libmemcached, as Perl's Memcached::libmemcached; Python uhashring with hash_fn="ketama".
- do not: libmemcached's own default, and its plain MEMCACHED_BEHAVIOR_KETAMA (another hash of keys, other points); Ruby's
  dalli, Python's pymemcache HashClient and Perl's Cache::Memcached::Fast, which have rings of their own. With these use one
  memcached, or publish over HTTP.

A message on the wrong server is not lost, and not delivered: it lies there until its ttl.

= WATCHING
memcached's `watch mutations` tells pbal of every store at once, so that a message is on its way within milliseconds and the sweep,
every `poll_interval`, is what catches the rest. A stream that stalls, says that it skipped lines, or is refused (memcached allows
few watchers, hosted ones often none) is made good by sweeping. `SHOW STORE` says which of them works.

= FAULTS
- memcached is gone, stalls or refuses: Parked polls stay parked until their time is over, and new ones are parked. A publish is
  answered 503. One line in the log when it goes, one when it is back; it is tried again after pauses of up to 5 seconds.
- memcached was restarted, or evicted a queue: What it held is lost, as with any memcached. Clients should be able to
  recover from a loss.
- The client left before its answer was written: The messages are put back in front of the queue (poll_put_back), or counted as
  poll_lost if the store fails at that moment.
- A value not framed as poll_framing says: It is delivered all the same, and counted as poll_misframed.
- A queue too long, or too much in the memory store: The oldest whole messages go, and poll_evicted says so.
- poll_max_parked is reached: 503 with Retry-After.
- A body that is too large: 413. A queue name that cannot be, or none: 400. A wrong method: 405. A publish from elsewhere: 403.
- RELOAD poll: Every parked poll stays parked. DISABLE of the service answers them empty.

= STATEMENTS
@statements

= COUNTERS
@counters

= SEE ALSO
`pbal(1)`, `pbal.conf(5)`, `memcached(1)`
"""


def pages() -> dict[str, str]:
    """File name to content of every page."""
    statements = Statements()
    conf: dict[str, Table] = {
        "statements": lambda: statements.core(queries=False),
        "queries": lambda: statements.core(queries=True),
        "selector_statements": lambda: statements.of(Vhosts, Vpaths),
        "types": _types,
        "tunables": lambda: tunable_table(CORE),
        "pool": lambda: tunable_table(POOL),
        "server": lambda: tunable_table(SERVER),
        "counters": lambda: counter_table(CORE_COUNTERS),
        "hooks": _hooks,
    }
    poll: dict[str, Table] = {
        "statements": lambda: statements.of(Poll),
        "tunables": lambda: tunable_table(POLL_TUNABLES),
        "counters": lambda: counter_table(POLL_COUNTERS),
    }
    return {
        "pbal.1": render("pbal", 1, PBAL_1, {}),
        "pbal.conf.5": render("pbal.conf", 5, PBAL_CONF_5, conf),
        "pbal-poll.7": render("pbal-poll", 7, PBAL_POLL_7, poll),
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
