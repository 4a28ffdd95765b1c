"""Every hook: when it runs, in which roles, with which arguments, and what its verdict does.

This file is the whole extension surface: a row of HOOKS is all there is to a hook. `@hook.NAME`, the check at LOAD
(model/plugin_check.py), the table of a service and the manual are made from it. A hook is added here together with a
bundled plugin that needs it.

A hook runs synchronously, inside the turn of the loop that brought its event. One that needs to wait takes the
exchange (Verdict.TAKEN), keeps it, and answers later. Hooks fail closed: an exception, or a verdict that is none, answers
that one request with 500, is logged with plugin, hook and line, and hurts nothing else.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import FunctionType
from typing import TYPE_CHECKING, TypeVar

from pbal.model.errors import ConfigError, UnknownName

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
    verdict: bool = True
    """Whether what it returns decides something, and so must be a Verdict."""


_HTTP = frozenset({"reverse_proxy", "web_server", "selector"})
_SERVING = frozenset({"reverse_proxy", "web_server"})

HOOKS: dict[str, Hook] = {
    declared.name: declared
    for declared in (
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
        ),
        Hook(
            "modify_response_headers",
            ("exchange", "response"),
            _SERVING,
            "pbal is about to send the response head of a backend or a file. The hook may change `response.headers`, a list of"
            " (name, value), but not the status or the body. pbal ignores what the hook returns.",
            """
            def forbid_frames(self, exchange: Exchange, response: ResponseHead) -> None:
                response.headers.append((b"X-Frame-Options", b"DENY"))
            """,
            verdict=False,
        ),
        Hook(
            "make_high_priority",
            ("exchange",),
            frozenset({"reverse_proxy"}),
            "A request has to wait for a connection to a node, and nobody has said high yet. If the hook returns True, the request is of"
            " the class that is served first. pbal asks once for each request that waits. Differs from Perlbal: it asks for none that"
            " is sent at once.",
            """
            def staff_first(self, exchange: Exchange) -> bool:
                return exchange.plain_path.startswith(b"/staff/")
            """,
            verdict=False,
        ),
        Hook(
            "make_low_priority",
            ("exchange",),
            frozenset({"reverse_proxy"}),
            "As make_high_priority, and after it if nobody said high. If the hook returns True, the request is of the class that is served"
            " last.",
            """
            def robots_last(self, exchange: Exchange) -> bool:
                return b"bot" in exchange.request.fields.get(b"user-agent", b"").lower()
            """,
            verdict=False,
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


@dataclass(frozen=True, slots=True)
class Bound:
    """One plugin's method for one hook of one service."""

    plugin: str
    hook: str
    call: Callable[..., object]
    wants_body: Callable[..., object]
    """Plugin.wants_body of the same plugin."""


class HookTable:
    """The hooks of one service, in the order of its plugins. Replaced whole, never changed: a running pass is safe.

    `table.NAME` is the tuple of a hook's methods, an attribute for each row of HOOKS: a slot is read in 2 ns, a dictionary in 6.
    """

    __slots__ = tuple(HOOKS)

    def __init__(self, bound: tuple[Bound, ...] = ()) -> None:
        for name in HOOKS:
            setattr(self, name, tuple(each for each in bound if each.hook == name))

    if TYPE_CHECKING:  # at run time it would cost every read 14 ns

        def __getattr__(self, name: str) -> tuple[Bound, ...]: ...
