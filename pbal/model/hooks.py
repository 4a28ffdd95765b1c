"""Every hook: when it runs, in which roles, with which arguments, and what its verdict does.

This file is the whole extension surface: a row of HOOKS is all there is to a hook. `@hook.NAME`, the check at LOAD
(model/plugin_check.py) and the manual are made from it; the table of a service (model/bound.py) has an attribute for each. A hook is
here because a plugin uses it, a bundled one or one of examples/plugins. Those of Perlbal that have no meaning in pbal stand in
schema/perlbal.py, with the reason.

A hook runs synchronously, inside the turn of the loop that brought its event. One that needs to wait takes the exchange (Verdict.TAKEN),
keeps it, and answers later, or gives it back (Exchange.go_on). Hooks fail closed: an exception, or a verdict that is none, answers
that one request with 500, is logged with plugin, hook and line, and hurts nothing else.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import FunctionType
from typing import TypeVar

from pbal.model.errors import ConfigError, UnknownName
from pbal.schema import perlbal

Method = TypeVar("Method", bound=Callable[..., object])

MARK = "__pbal_hook__"
"""The attribute of a function that says which hook it is."""


class Verdict(Enum):
    """A hook's answer. PASS: the next one decides. TAKEN: the plugin owns the exchange from here."""

    PASS = "pass"
    TAKEN = "taken"


PASS, TAKEN = Verdict.PASS, Verdict.TAKEN


@dataclass(frozen=True, slots=True)
class Hook:
    """The declaration of one hook."""

    name: str
    arguments: tuple[str, ...]
    roles: frozenset[str]
    summary: str
    example: str
    """A method that uses it, as it stands in a plugin class; tests run it, and the manual shows it."""
    returns: str = "Verdict.PASS, or Verdict.TAKEN if the plugin answers"
    """What it returns; "" where that is ignored."""
    own: bool = False
    """Whether it is pbal's, and Perlbal has none of the name."""

    @property
    def code(self) -> str:
        """The example with its mark."""
        text = inspect.cleandoc(self.example)
        return text if "@hook." in text else f"@hook.{self.name}\n{text}"


_HTTP = frozenset({"reverse_proxy", "web_server", "selector"})
_SERVING = frozenset({"reverse_proxy", "web_server"})
_PROXY = frozenset({"reverse_proxy"})
_WEB = frozenset({"web_server"})

HOOKS: dict[str, Hook] = {
    declared.name: declared
    for declared in (
        Hook(
            "start_proxy_request",
            ("exchange",),
            _PROXY,
            "As start_http_request, and before it, on a reverse_proxy alone.",
            """
            def no_trace_of_jndi(self, exchange: Exchange) -> Verdict:
                if b"${jndi:" not in exchange.request.fields.get(b"user-agent", b"").lower():
                    return Verdict.PASS
                exchange.respond(400, (), b"Not with this browser.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "start_web_request",
            ("exchange",),
            _WEB,
            "As start_http_request, and before it, on a web_server alone.",
            """
            def closed_for_robots(self, exchange: Exchange) -> Verdict:
                if b"bot" not in exchange.request.fields.get(b"user-agent", b"").lower():
                    return Verdict.PASS
                exchange.respond(403, (), b"People only.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "answer_preflight",
            ("exchange",),
            _SERVING,
            "A browser asks, before it sends a request for a page of another origin, whether it may (`exchange.preflight`): OPTIONS with"
            " Origin and Access-Control-Request-Method. The hook runs before the other hooks of plugins that do not guard, and before those"
            " that guard by credentials (guards_by_credentials): a preflight has none. If it returns TAKEN, the plugin answers.",
            """
            def no_other_origins(self, exchange: Exchange) -> Verdict:
                exchange.respond(403, (), b"Pages of this site only.\\n")
                return Verdict.TAKEN
            """,
            own=True,
        ),
        Hook(
            "start_http_request",
            ("exchange",),
            _HTTP,
            "pbal has read the request head, and nothing of the body. If the hook returns TAKEN, the plugin answers,"
            " now or later, and pbal reads and drops the rest of the body.",
            """
            def refuse_coffee(self, exchange: Exchange) -> Verdict:
                if not exchange.plain_path.startswith(b"/coffee"):
                    return Verdict.PASS
                exchange.respond(418, (), b"a teapot\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "proxy_read_request",
            ("exchange",),
            _SERVING,
            "pbal has the whole body (`exchange.read_body()`) and has not asked a backend or opened a file. The hook runs once for"
            " every request, also for an empty body. If it returns TAKEN, pbal asks no backend. Differs from Perlbal: there it"
            " ran only for some requests, and several times for some.",
            """
            def refuse_words(self, exchange: Exchange) -> Verdict:
                if b"forbidden word" not in exchange.read_body():
                    return Verdict.PASS
                exchange.respond(422, (), b"Not with these words.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "handle_put",
            ("exchange",),
            _WEB,
            "A PUT is about to be written to a file, whether the service takes files (enable_put) or not. pbal has the whole body, as for"
            " proxy_read_request, which runs before it. If the hook returns TAKEN, pbal writes nothing. Differs from Perlbal: there"
            " the body had not come yet.",
            """
            def keep_in_memory(self, exchange: Exchange) -> Verdict:
                if exchange.plain_path != b"/notes":
                    return Verdict.PASS
                self.notes = exchange.read_body()
                exchange.respond(204)
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "select_service",
            ("exchange",),
            frozenset({"selector"}),
            "A selector looks for the service that should answer. To choose one, call `exchange.hand_to(service)` and"
            " return TAKEN. If every hook returns PASS, default_service gets the request.",
            """
            def by_method(self, exchange: Exchange) -> Verdict:
                if exchange.method in (b"GET", b"HEAD"):
                    return Verdict.PASS
                exchange.hand_to(self.world.service("writers"))
                return Verdict.TAKEN
            """,
            own=True,
        ),
        Hook(
            "select_pool",
            ("exchange",),
            _PROXY,
            "A reverse_proxy is about to look for a node. The hook returns the name of the pool that should have the request, one of those"
            " that the plugin's method pools() names, or None to leave it to the next plugin, to ROUTE and to SET pool. It runs once for"
            " each request.",
            """
            def pools(self) -> tuple[str, ...]:
                return ("beta",)

            @hook.select_pool
            def testers(self, exchange: Exchange) -> str | None:
                return "beta" if exchange.request.fields.get(b"x-tester") == b"yes" else None
            """,
            returns="the name of a pool, or None",
            own=True,
        ),
        Hook(
            "select_node",
            ("exchange", "nodes"),
            _PROXY,
            "A pool chooses a node for a request. `nodes` are those that may have it: up, not full, and not tried yet. The hook returns one"
            " of them, or None to leave it to the next plugin and to balance_method. It runs again if the request is sent again. A client"
            " that is bound by a cookie (sticky) goes where its cookie says, and the hook is not asked. Nor is it where one node only is"
            " left.",
            """
            def first_by_name(self, exchange: Exchange, nodes: tuple[Node, ...]) -> Node | None:
                return min(nodes, key=lambda node: node.name)
            """,
            returns="one of the nodes, or None",
            own=True,
        ),
        Hook(
            "make_high_priority",
            ("exchange",),
            _PROXY,
            "A request has to wait for a connection to a node, and nobody has said high yet. If the hook returns True, the request is of"
            " the class that is served first. pbal asks once for each request that waits. Differs from Perlbal: it asks for none that"
            " is sent at once.",
            """
            def staff_first(self, exchange: Exchange) -> bool:
                return exchange.plain_path.startswith(b"/staff/")
            """,
            returns="True or False",
        ),
        Hook(
            "make_low_priority",
            ("exchange",),
            _PROXY,
            "As make_high_priority, and after it if nobody said high. If the hook returns True, the request is of the class that is served"
            " last.",
            """
            def robots_last(self, exchange: Exchange) -> bool:
                return b"bot" in exchange.request.fields.get(b"user-agent", b"").lower()
            """,
            returns="True or False",
        ),
        Hook(
            "backend_client_assigned",
            ("exchange",),
            _PROXY,
            "A request has a connection to a node (`exchange.asked`), and is about to be sent. The hook may change the head with"
            " `exchange.set_field()`. It runs again if the request is sent again. Differs from Perlbal: the"
            " hook cannot take the connection.",
            """
            def name_the_node(self, exchange: Exchange) -> None:
                exchange.set_field(b"X-Attempt", b"%d" % exchange.attempts)
            """,
            returns="",
        ),
        Hook(
            "backend_response_received",
            ("exchange", "response"),
            _PROXY,
            "A node has sent the head of its response, and the client has had nothing of it. If the hook returns TAKEN, pbal drops the"
            " response, and the plugin answers, or hands the request to another service. The hook cannot change the response:"
            " modify_response_headers can.",
            """
            def hide_errors(self, exchange: Exchange, response: ResponseHead) -> Verdict:
                if response.status < 500:
                    return Verdict.PASS
                exchange.respond(503, [(b"Retry-After", b"60")], b"Please come again in a minute.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "modify_response_headers",
            ("exchange", "response"),
            _SERVING,
            "pbal is about to send the response head of a backend or a file. The hook may change `response.headers`, a list of"
            " (name, value), and `response.status` to another one whose responses have a body.",
            """
            def forbid_frames(self, exchange: Exchange, response: ResponseHead) -> None:
                response.headers.append((b"X-Frame-Options", b"DENY"))
            """,
            returns="",
        ),
        Hook(
            "prepend_body",
            ("exchange", "response"),
            _PROXY,
            "pbal is about to send the head of a node's response that has a body. It sends what the hook returns, bytes, before that body,"
            " and counts them in Content-Length. It is not for a response with Content-Encoding. Differs from Perlbal: the hook sends"
            " nothing itself.",
            """
            def mark_text(self, exchange: Exchange, response: ResponseHead) -> bytes:
                return b"Draft\\n" if response.fields.get(b"content-type", b"").startswith(b"text/plain") else b""
            """,
            returns="bytes",
        ),
        Hook(
            "start_file_reproxy",
            ("exchange", "lookup"),
            _PROXY,
            "A node has ordered a file (X-REPROXY-FILE). The hook may set `lookup.path`, which has to be in reproxy_root still. If it"
            " returns TAKEN, the plugin answers.",
            """
            def from_the_copy(self, exchange: Exchange, lookup: Lookup) -> Verdict:
                lookup.path = lookup.path.replace(b"/original/", b"/copy/")
                return Verdict.PASS
            """,
        ),
        Hook(
            "start_serve_request",
            ("exchange", "lookup"),
            _WEB,
            "A web_server is about to look for the file of a GET or HEAD. The hook may set `lookup.path`, decoded, below docroot. If a"
            " rule by path (LIMIT, basic_auth_path) is for that name and was not for the one that was asked for, the answer is 403. If the"
            " hook returns TAKEN, the plugin answers. It runs for each of several files that are asked for in one (enable_concatenate_get)."
            " Differs from Perlbal: it runs once for a file, and not again for one of index_files.",
            """
            def old_names(self, exchange: Exchange, lookup: Lookup) -> Verdict:
                lookup.path = lookup.path.removesuffix(b".htm") + b".html" if lookup.path.endswith(b".htm") else lookup.path
                return Verdict.PASS
            """,
        ),
        Hook(
            "static_get_poststat_file_missing",
            ("exchange",),
            _WEB,
            "There is no such file, and the answer would be 404. If the hook returns TAKEN, the plugin answers, or hands the request to"
            " another service.",
            """
            def from_elsewhere(self, exchange: Exchange) -> Verdict:
                exchange.hand_to(self.world.service("readers"))
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "static_get_poststat_pre_send",
            ("exchange", "modified"),
            _WEB,
            "There is such a file; it was changed last at `modified`, in seconds since 1970. If the hook returns TAKEN, the plugin"
            " answers, or hands the request to another service. Differs from Perlbal: it runs also where the answer would be 206, 304 or"
            " 416.",
            """
            def not_before_2000(self, exchange: Exchange, modified: int) -> Verdict:
                if modified > 946_684_800:
                    return Verdict.PASS
                exchange.respond(410, (), b"Too old.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "concat_get_poststat_file_missing",
            ("exchange",),
            _WEB,
            "As static_get_poststat_file_missing, where several files were asked for in one (enable_concatenate_get), and one is missing.",
            """
            def from_elsewhere(self, exchange: Exchange) -> Verdict:
                exchange.hand_to(self.world.service("readers"))
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "concat_get_poststat_pre_send",
            ("exchange", "modified"),
            _WEB,
            "As static_get_poststat_pre_send, where several files were asked for in one. `modified` is that of the newest.",
            """
            def not_before_2000(self, exchange: Exchange, modified: int) -> Verdict:
                if modified > 946_684_800:
                    return Verdict.PASS
                exchange.respond(410, (), b"Too old.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "start_send_file",
            ("exchange", "file"),
            _SERVING,
            "A file is about to be sent, of a web_server or by X-REPROXY-FILE. If the hook returns TAKEN, the plugin answers; `await"
            " file.read(limit)` in a coroutine gives it the contents. Differs from Perlbal: it runs before conditions and ranges are looked"
            " at, and under TLS, too.",
            """
            def too_long(self, exchange: Exchange, file: FileFound) -> Verdict:
                if file.size <= 1_000_000_000:
                    return Verdict.PASS
                exchange.respond(403, (), b"Ask for a part of it.\\n")
                return Verdict.TAKEN
            """,
        ),
        Hook(
            "end_proxy_request",
            ("exchange",),
            _PROXY,
            "As end, and after it, on a reverse_proxy alone. Differs from Perlbal: it runs once for each request, and never for a"
            " connection without one.",
            """
            def say_attempts(self, exchange: Exchange) -> None:
                exchange.note("backend_attempts", str(exchange.attempts))
            """,
            returns="",
        ),
        Hook(
            "return_to_base",
            ("exchange",),
            frozenset({"selector"}),
            "As end, and after it, on a selector alone: a request that it may have handed on has ended, and the connection's next request"
            " is the selector's again. Differs from Perlbal: the hook cannot keep the connection from it.",
            """
            def say_who_answered(self, exchange: Exchange) -> None:
                exchange.note("answered_by", exchange.service.name)
            """,
            returns="",
        ),
        Hook(
            "end",
            ("exchange",),
            _HTTP,
            "A request is over: its answer has gone out, or will not, or its client is parked (`exchange.stage`). The hook runs once, also"
            " for a request that was refused before start_http_request ran: on the service that had it, and then on those that had handed"
            " it on. It may add notes to the line of the access log. Nothing can be answered any more.",
            """
            def say_class(self, exchange: Exchange) -> None:
                exchange.note("class", f"{exchange.status // 100}xx")
            """,
            returns="",
            own=True,
        ),
    )
}


def suggest(word: str, candidates: list[str] | tuple[str, ...]) -> str | None:
    """The candidate most like `word`, or None."""
    close = difflib.get_close_matches(word.lower(), [name.lower() for name in candidates], n=1, cutoff=0.6)
    return close[0] if close else None


@dataclass(frozen=True, slots=True)
class Marked:
    """A function that was marked as a hook while its module was imported."""

    hook: str
    function: FunctionType


_marked: dict[str, list[Marked]] = {}


def take_marked(module_name: str) -> list[Marked]:
    """The functions that a module, or the modules of a package, marked; each is told once.

    What was marked and is no method of the plugin any more (two of one name, a class nobody uses) would load in silence.
    """
    names = [name for name in list(_marked) if name == module_name or name.startswith(module_name + ".")]
    return [marked for name in names for marked in _marked.pop(name)]


class _HookNamespace:
    """`@hook.start_http_request` marks a method as that hook. An unknown name raises with a suggestion."""

    def __getattr__(self, name: str) -> Callable[[Method], Method]:
        if name in perlbal.HOOKS:
            raise UnknownName(f"there is no hook '{name}': {perlbal.HOOKS[name].why}", about=name, candidates=HOOKS)
        if name not in HOOKS:
            near = suggest(name, tuple(HOOKS))
            hint = f"; did you mean '{near}'?" if near else f"; hooks are {', '.join(sorted(HOOKS))}"
            raise UnknownName(f"there is no hook '{name}'{hint}", about=name, candidates=HOOKS)

        def mark(method: Method) -> Method:
            if not isinstance(method, FunctionType):
                kind = type(method).__name__
                raise ConfigError(f"@hook.{name} stands above a {kind}: a hook is a plain method, def NAME(self, ...)", about=name)
            if hasattr(method, MARK):
                raise ConfigError(f"{method.__name__} is marked as two hooks: write a method for each", about=name)
            setattr(method, MARK, name)
            _marked.setdefault(method.__module__, []).append(Marked(name, method))
            return method

        return mark


hook = _HookNamespace()


def hooks_of(plugin_class: type) -> dict[str, str]:
    """Hook name to method name for a plugin class that was checked when it was loaded."""
    functions = inspect.getmembers(plugin_class, inspect.isfunction)
    return {getattr(function, MARK): name for name, function in functions if hasattr(function, MARK)}
