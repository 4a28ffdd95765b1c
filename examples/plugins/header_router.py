"""header_router: the value of a header field says which pool has the request.

    LOAD header_router
    CREATE SERVICE site
      SET role          = reverse_proxy
      SET pool          = app
      SET plugins       = header_router
      SET header_router = X-Version: 2=app2 beta=app_beta

A request whose field has another value, or that has no such field, goes where it would go without this plugin.
"""

import re
from typing import NamedTuple

from pbal.api import Exchange, Explanation, Plugin, Tunable, Type, hook

_FORM = re.compile(r"([A-Za-z0-9-]+):((?:\s+[^\s=]+=[\w-]+)+)")


class Routes(NamedTuple):
    """A field, in lower case, and pools by its values."""

    field: bytes
    pools: dict[bytes, str]


def _parse(text: str) -> Routes:
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected FIELD: VALUE=POOL ..., such as X-Version: 2=app2, found '{text}'")
    pairs = (word.split("=") for word in match[2].split())
    return Routes(match[1].lower().encode(), {value.encode(): pool for value, pool in pairs})


def _render(routes: Routes) -> str:
    return f"{routes.field.decode()}: " + " ".join(f"{value.decode()}={pool}" for value, pool in routes.pools.items())


class HeaderRouter(Plugin):
    roles = frozenset({"reverse_proxy"})
    tunables = (Tunable("header_router", Type("field: value=pool ...", _parse, _render), summary="Which value goes to which pool."),)

    def pools(self) -> tuple[str, ...]:
        routes = self.service["header_router"]
        return () if routes is None else tuple(routes.pools.values())

    @hook.select_pool
    def by_header(self, exchange: Exchange) -> str | None:
        routes = self.service["header_router"]
        return None if routes is None else routes.pools.get(exchange.request.fields.get(routes.field, b""))

    def explain(self, exchange: Exchange) -> Explanation | None:
        pool = self.by_header(exchange)
        return None if pool is None else Explanation([f"{self.service.shown('header_router')}: pool {pool}"], pool=pool)
