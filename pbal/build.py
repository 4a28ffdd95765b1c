"""Which modules a compiled pbal has compiled, and which kind of pbal this one is.

pbal is pure Python and runs as that everywhere. Where PBAL_COMPILE=1 is set while it is installed (`make fast` does so),
setup.py has mypyc compile COMPILED: what every request passes. The .py files are installed beside them and are what a
traceback shows. Plugins are not in the list: they are reloaded, and an extension module cannot be.

A class of the list cannot be subclassed, patched or weakly referenced by a module that is not in it, unless it says so to
mypyc. So a base class comes with its subclasses: roles.http with every role.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import Final

COMPILED: Final = (
    "pbal.console.management",
    "pbal.http1.changes",
    "pbal.http1.events",
    "pbal.http1.forwarded",
    "pbal.http1.headers",
    "pbal.http1.pieces",
    "pbal.http1.lines",
    "pbal.http1.reader",
    "pbal.http1.octets",
    "pbal.http1.encoder",
    "pbal.model.balance",
    "pbal.model.bodies",
    "pbal.model.bound",
    "pbal.model.calling",
    "pbal.model.chained",
    "pbal.model.caching",
    "pbal.model.clock",
    "pbal.model.collected",
    "pbal.model.conditions",
    "pbal.model.deliveries",
    "pbal.model.exchange",
    "pbal.model.forwarding",
    "pbal.model.handling",
    "pbal.model.health",
    "pbal.model.imagined",
    "pbal.model.openfiles",
    "pbal.model.pace",
    "pbal.model.parking",
    "pbal.model.pool",
    "pbal.model.rules",
    "pbal.model.secured",
    "pbal.model.service",
    "pbal.model.sharing",
    "pbal.model.sink",
    "pbal.model.slots",
    "pbal.model.sticky",
    "pbal.model.steering",
    "pbal.model.tracing",
    "pbal.model.networks",
    "pbal.model.trust",
    "pbal.model.variables",
    "pbal.model.tunnels",
    "pbal.net.answering",
    "pbal.net.backend",
    "pbal.net.connection",
    "pbal.net.linger",
    "pbal.net.parking",
    "pbal.net.pressing",
    "pbal.net.tls",
    "pbal.net.wire",
    "pbal.observe.access",
    "pbal.observe.histogram",
    "pbal.observe.recent",
    "pbal.observe.tracer",
    "pbal.observe.traffic",
    "pbal.roles.chain",
    "pbal.roles.entrance",
    "pbal.roles.http",
    "pbal.roles.collect",
    "pbal.roles.conversing",
    "pbal.roles.files.awaiting",
    "pbal.roles.files.cache",
    "pbal.roles.files.ranges",
    "pbal.roles.files.sending",
    "pbal.roles.proxy.backends",
    "pbal.roles.proxy.decide",
    "pbal.roles.proxy.binding",
    "pbal.roles.proxy.bored",
    "pbal.roles.proxy.dialing",
    "pbal.roles.proxy.drain",
    "pbal.roles.proxy.errand",
    "pbal.roles.proxy.fallback",
    "pbal.roles.proxy.groups",
    "pbal.roles.proxy.openings",
    "pbal.roles.proxy.outgoing",
    "pbal.roles.proxy.pump",
    "pbal.roles.proxy.reading",
    "pbal.roles.proxy.priority",
    "pbal.roles.proxy.queue",
    "pbal.roles.proxy.relay",
    "pbal.roles.proxy.request",
    "pbal.roles.proxy.response",
    "pbal.roles.proxy.reproxy.targets",
    "pbal.roles.proxy.reproxy.url",
    "pbal.roles.proxy.retry",
    "pbal.roles.proxy.role",
    "pbal.roles.proxy.seeker",
    "pbal.roles.proxy.terms",
    "pbal.roles.proxy.tunnel",
    "pbal.roles.proxy.uploads",
    "pbal.roles.proxy.verify",
    "pbal.roles.selector",
    "pbal.roles.tracker",
    "pbal.roles.web.joined",
    "pbal.roles.web.listings",
    "pbal.roles.web.neighbours",
    "pbal.roles.web.role",
    "pbal.roles.web.writing",
)


def is_compiled(module: str) -> bool:
    """Whether `module` is an extension module here. It is found, not imported."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES))


def kind() -> str:
    """'interpreted' or 'compiled'; 'partly compiled' is an installation gone wrong, and says so rather than guess."""
    found = {is_compiled(module) for module in COMPILED}
    if len(found) > 1:
        return "partly compiled"
    return "compiled" if True in found else "interpreted"
