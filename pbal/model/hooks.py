"""Every hook: when it runs, in which roles, with which arguments, and what its verdict does.

This file is the whole extension surface. A plugin marks a method with `@hook.NAME`; loading the plugin checks
the name and the argument names against HOOKS below, so that a misspelt hook is a load error with a suggestion and
never a hook that quietly does not fire. A hook is added here together with a bundled plugin that needs it.

A hook runs synchronously, inside the turn of the loop that brought its event. One that needs to wait takes the
exchange (Verdict.TAKEN), keeps it, and answers later. An exception answers that one request with 500, is logged
with plugin, hook and line, and hurts nothing else.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from pbal.model.errors import ConfigError, UnknownName

Method = TypeVar("Method", bound=Callable[..., Any])


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


_HTTP = frozenset({"reverse_proxy", "web_server", "selector"})
_SERVING = frozenset({"reverse_proxy", "web_server"})

HOOKS: dict[str, Hook] = {
    declared.name: declared
    for declared in (
        Hook(
            "start_http_request",
            ("exchange",),
            _HTTP,
            "A request head was read; no octet of its body was. TAKEN: the plugin answers, now or later; a body"
            " still to come is read and dropped.",
        ),
        Hook(
            "proxy_read_request",
            ("exchange",),
            _SERVING,
            "The whole body is there (`exchange.read_body()`), and no backend or file was asked for yet. Runs once for"
            " every request, also for an empty body. Differs from Perlbal: there it ran for some requests only, and"
            " for some several times. TAKEN: no backend is asked.",
        ),
        Hook(
            "select_service",
            ("exchange",),
            frozenset({"selector"}),
            "A selector looks for the service that should answer. Hand over with `exchange.hand_to(service)` and"
            " return TAKEN; when all pass, default_service is asked.",
        ),
        Hook(
            "modify_response_headers",
            ("exchange", "response"),
            _SERVING,
            "A response head, from a backend or a file, is about to be sent. `response.headers` is a list of (name,"
            " value) that may be changed. The verdict is ignored.",
        ),
    )
}


def suggest(word: str, candidates: list[str] | tuple[str, ...]) -> str | None:
    """The candidate most like `word`, or None."""
    close = difflib.get_close_matches(word.lower(), [name.lower() for name in candidates], n=1, cutoff=0.6)
    return close[0] if close else None


class _HookNamespace:
    """`@hook.start_http_request` marks a method as that hook. An unknown name raises with a suggestion."""

    def __getattr__(self, name: str) -> Callable[[Method], Method]:
        if name not in HOOKS:
            near = suggest(name, tuple(HOOKS))
            hint = f"; did you mean '{near}'?" if near else f"; hooks are {', '.join(sorted(HOOKS))}"
            raise UnknownName(f"there is no hook '{name}'{hint}", about=name, candidates=HOOKS)

        def mark(method: Method) -> Method:
            method.__pbal_hook__ = name  # type: ignore[attr-defined]
            return method

        return mark


hook = _HookNamespace()


def hooks_of(plugin_class: type) -> dict[str, str]:
    """Hook name to method name for a plugin class.

    Raises: ConfigError if a method's arguments are not those of its hook, or two methods claim one hook.
    """
    found: dict[str, str] = {}
    for method_name, method in inspect.getmembers(plugin_class, inspect.isfunction):
        name = getattr(method, "__pbal_hook__", None)
        if name is None:
            continue
        if name in found:
            raise ConfigError(f"{found[name]} and {method_name} both claim hook '{name}'", about=name)
        arguments = tuple(inspect.signature(method).parameters)[1:]
        declared = HOOKS[name].arguments
        if arguments != declared:
            raise ConfigError(f"{method_name}({', '.join(arguments)}): hook '{name}' is called with ({', '.join(declared)})", about=name)
        found[name] = method_name
    return found


@dataclass(frozen=True, slots=True)
class Bound:
    """One plugin's method for one hook of one service."""

    plugin: str
    hook: str
    call: Callable[..., Any]


class HookTable:
    """The hooks of one service, in the order of its plugins. Replaced whole, never changed: a running pass is safe."""

    __slots__ = ("modify_response_headers", "proxy_read_request", "select_service", "start_http_request")

    def __init__(self, bound: tuple[Bound, ...] = ()) -> None:
        self.start_http_request = tuple(b for b in bound if b.hook == "start_http_request")
        self.proxy_read_request = tuple(b for b in bound if b.hook == "proxy_read_request")
        self.select_service = tuple(b for b in bound if b.hook == "select_service")
        self.modify_response_headers = tuple(b for b in bound if b.hook == "modify_response_headers")
