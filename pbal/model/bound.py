"""The hooks of one service as the hot path reads them: an attribute for each row of HOOKS, and plain tuples behind it.

It is beside hooks.py, which declares them, so that it compiles: an attribute is then a load, and a hook that nobody has costs the test of
an empty tuple. A test holds its attributes against HOOKS.

Where Perlbal has a hook of a role beside one of all roles that runs at the same moment, one tuple holds both, so that a request pays for
one test:

    begun             start_proxy_request or start_web_request, by role, then start_http_request. Plugins up to the last one that guards
                      come first, each with all of its hooks: nobody is served before who guards was asked
    begun_preflight   the same for a preflight of CORS: answer_preflight comes before who guards by what a request carries
    ended             end, then end_proxy_request or return_to_base, by role
"""

from collections.abc import Callable, Sequence
from typing import Final

_STARTS: Final = frozenset({"start_proxy_request", "start_web_request", "start_http_request"})


class Timing:
    """What a hook of a plugin has cost so far, on every service and over its generations."""

    __slots__ = ("calls", "seconds", "slowest")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.slowest = 0.0
        """Seconds of the longest call."""


class Bound:
    """One plugin's method for one hook of one service."""

    __slots__ = ("by_credentials", "call", "hook", "plugin", "timing", "up_to_guards", "wants_body")

    def __init__(
        self,
        plugin: str,
        hook: str,
        call: Callable[..., object],
        wants_body: Callable[..., object],
        timing: Timing | None = None,
        up_to_guards: bool = False,
        by_credentials: bool = False,
    ) -> None:
        self.plugin = plugin
        self.hook = hook
        self.call = call
        self.wants_body = wants_body
        """Plugin.wants_body of the same plugin."""
        self.timing = Timing() if timing is None else timing
        self.up_to_guards = up_to_guards
        """Whether the plugin guards, or one behind it in the chain does."""
        self.by_credentials = by_credentials
        """Plugin.guards_by_credentials of the same plugin."""


Bounds = tuple[Bound, ...]


class HookTable:
    """The hooks of one service, in the order of its plugins. Replaced whole, never changed: a running pass is safe."""

    __slots__ = (
        "answer_preflight", "backend_client_assigned", "backend_response_received", "begun", "begun_preflight",
        "concat_get_poststat_file_missing", "concat_get_poststat_pre_send", "end", "end_proxy_request", "ended", "handle_put",
        "make_high_priority", "make_low_priority", "modify_response_headers",
        "prepend_body", "proxy_read_request", "return_to_base", "select_node", "select_pool", "select_service", "start_file_reproxy",
        "start_http_request", "start_proxy_request", "start_send_file", "start_serve_request", "start_web_request",
        "static_get_poststat_file_missing", "static_get_poststat_pre_send",
    )  # fmt: skip

    def __init__(self, bound: Sequence[Bound] = (), role: str = "") -> None:
        by_hook: dict[str, Bounds] = {}
        for each in bound:
            by_hook[each.hook] = (*by_hook.get(each.hook, ()), each)
        self.answer_preflight: Bounds = by_hook.get("answer_preflight", ())
        self.backend_client_assigned: Bounds = by_hook.get("backend_client_assigned", ())
        self.backend_response_received: Bounds = by_hook.get("backend_response_received", ())
        self.concat_get_poststat_file_missing: Bounds = by_hook.get("concat_get_poststat_file_missing", ())
        self.concat_get_poststat_pre_send: Bounds = by_hook.get("concat_get_poststat_pre_send", ())
        self.end: Bounds = by_hook.get("end", ())
        self.end_proxy_request: Bounds = by_hook.get("end_proxy_request", ())
        self.handle_put: Bounds = by_hook.get("handle_put", ())
        self.make_high_priority: Bounds = by_hook.get("make_high_priority", ())
        self.make_low_priority: Bounds = by_hook.get("make_low_priority", ())
        self.modify_response_headers: Bounds = by_hook.get("modify_response_headers", ())
        self.prepend_body: Bounds = by_hook.get("prepend_body", ())
        self.proxy_read_request: Bounds = by_hook.get("proxy_read_request", ())
        self.return_to_base: Bounds = by_hook.get("return_to_base", ())
        self.select_node: Bounds = by_hook.get("select_node", ())
        self.select_pool: Bounds = by_hook.get("select_pool", ())
        self.select_service: Bounds = by_hook.get("select_service", ())
        self.start_file_reproxy: Bounds = by_hook.get("start_file_reproxy", ())
        self.start_http_request: Bounds = by_hook.get("start_http_request", ())
        self.start_proxy_request: Bounds = by_hook.get("start_proxy_request", ())
        self.start_send_file: Bounds = by_hook.get("start_send_file", ())
        self.start_serve_request: Bounds = by_hook.get("start_serve_request", ())
        self.start_web_request: Bounds = by_hook.get("start_web_request", ())
        self.static_get_poststat_file_missing: Bounds = by_hook.get("static_get_poststat_file_missing", ())
        self.static_get_poststat_pre_send: Bounds = by_hook.get("static_get_poststat_pre_send", ())
        first: Bounds = ()
        last: Bounds = ()
        if role == "reverse_proxy":
            first, last = self.start_proxy_request, self.end_proxy_request
        elif role == "web_server":
            first = self.start_web_request
        elif role == "selector":
            last = self.return_to_base
        at_once = [each for each in bound if each.up_to_guards and each.hook in _STARTS]
        later = [each for each in first + self.start_http_request if not each.up_to_guards]
        self.begun: Bounds = (*at_once, *later)
        """What runs when a request has come."""
        place = next((place for place, each in enumerate(at_once) if each.by_credentials), len(at_once))
        self.begun_preflight: Bounds = (*self.begun[:place], *self.answer_preflight, *self.begun[place:]) if self.answer_preflight else ()
        """The same for a preflight, where plugins answer some."""
        self.ended: Bounds = self.end + last
        """What runs when it has ended."""
