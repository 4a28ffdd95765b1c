"""Whether what was said of a service can stand together: its role with its rules, with its values, and with what it needs.

Each function raises ConfigError, and changes nothing. A SET asks before it is committed, ENABLE before anything is opened.
"""

from typing import Any

from pbal.model.certificates import backend_context
from pbal.model.errors import ConfigError
from pbal.model.rules import Rules
from pbal.schema.kinds import Kind, Needed
from pbal.schema.roles import SENDING_ON, Role
from pbal.schema.types import either


def refuse_rules(name: str, declared: Role | None, rules: Rules) -> None:
    """Refuse rules that a role does not go by. What has none yet may get it."""
    if declared is None:
        return
    role = declared.name
    message = ""
    if (rules.routes or rules.rewrites) and role != "reverse_proxy":
        said = "ROUTE" if rules.routes else "REWRITE"
        message = f"{said} has no effect on a {role}: it is about requests that a reverse_proxy sends to nodes"
    elif rules.caching and role != "web_server":
        message = (
            f"CACHE has no effect on a {role}: it is about the files of a web_server. HEADER RESPONSE SET Cache-Control: ... is for others"
        )
    elif rules.request is not None and not declared.sends_on:
        message = f"HEADER has no effect on a {role}: it changes requests that a {either(SENDING_ON)} sends on"
        if declared.http:
            message += "; HEADER RESPONSE changes answers"
    elif rules.response is not None and not declared.http:
        message = f"HEADER RESPONSE has no effect on a {role}, which answers no HTTP"
    if message:
        raise ConfigError(message, about=name)


def check_needs(name: str, role: Role, values: dict[str, Any], chooses: bool) -> None:
    """Refuse a service without what its role needs. `chooses`: whether a plugin selects services."""
    for needed in role.needs:
        if values[needed] is None:
            message = f"{role.name} service '{name}' needs SET {needed}"
            raise ConfigError(message, about=name, kind=Kind.NEEDS_OTHER_FIRST, needs=Needed("set", needed))
    if role.name == "selector" and not chooses and values["default_service"] is None:
        raise ConfigError(f"selector '{name}' has no selector plugin (vhosts, vpaths) and no default_service", about=name)


def check_role(name: str, role: Role, values: dict[str, Any], server: dict[str, Any]) -> None:
    """Refuse what the role does not let stand together; `server`: the values of the SERVER statements."""
    if role.refuses is not None and (why := role.refuses(values, server)):
        raise ConfigError(f"service '{name}': {why}", about=name)


def check_backend_tls(values: dict[str, Any]) -> None:
    """Refuse what TLS to nodes cannot be made with."""
    if values["ssl_backend"]:
        backend_context(values["ssl_backend_ca"], values["ssl_backend_verify"])
        host = values["ssl_backend_name"]
        try:
            host.encode("idna")
        except UnicodeError:
            raise ConfigError(f"ssl_backend_name: '{host}' is not the name of a host", about=host) from None
