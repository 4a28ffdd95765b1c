"""What would become of a request that nobody sent: the way that roles/http.py, selector.py, proxy and web go, told and not taken.

No hook runs. What a plugin would do it tells itself (Plugin.explain); one that tells nothing is taken to let the request pass, and its
hooks are named. The head that a node would be sent is made by the code that makes it for a relay (proxy/request.py).
"""

from collections.abc import Generator, Iterator
from typing import cast

from pbal.config.spec import NodeSpec, Standing
from pbal.model.balance import HASH, key_octets
from pbal.model.chained import Chain
from pbal.model.exchange import Exchange
from pbal.model.explaining import Explanation, Step
from pbal.model.faults import asked, shown
from pbal.model.health import described, use_told
from pbal.model.hooks import HOOKS
from pbal.model.limiting import excess, seconds
from pbal.model.plugin import Plugin
from pbal.model.pool import Node, Pool
from pbal.model.rules import ADD, SET, shown_when
from pbal.model.searching import TookTooLong
from pbal.model.service import Service
from pbal.model.steering import UnsafePath
from pbal.observe.access import quoted_text
from pbal.roles import entrance
from pbal.roles.proxy import uploads
from pbal.roles.proxy.binding import unbound
from pbal.roles.proxy.priority import has_cookie
from pbal.roles.proxy.request import request_octets
from pbal.roles.proxy.role import ReverseProxy
from pbal.roles.searched import TOO_LONG, ends
from pbal.roles.selector import DEEPEST
from pbal.roles.web import explaining as web
from pbal.roles.web.role import WebServer
from pbal.schema.balancing import HashOf
from pbal.schema.pools import OF_POOLS


def explain(exchange: Exchange) -> Iterator[Step]:
    """The steps on the way of a request that comes by the listener of `exchange.home`."""
    service = exchange.service
    while True:
        yield Step("service", service.name, f"role {service.role}")
        refusal = _refusal(service, exchange)
        if refusal:
            yield Step("answer", service.name, refusal)
            return
        over = yield from _limits(service, exchange)
        if over:
            yield Step("answer", service.name, over)
            return
        yield from _headers(service, exchange)
        explained, steps = _plugins(service, exchange)
        yield from steps
        if service.role != "selector":
            break
        following = _selected(service, explained)
        if isinstance(following, str):
            yield Step("answer", service.name, following)
            return
        if explained is None or not explained.service:
            yield Step("rule", service.name, f"default_service = {following.name}")
        elif explained.host:
            exchange.request = exchange.request.altered(b"Host", explained.host)
        exchange.hops += 1
        if exchange.hops > DEEPEST:
            yield Step("answer", service.name, "508: these selectors select each other")
            return
        exchange.turn_to(following)
        service = following
    if explained is None or not explained.takes:
        yield from _served(service, exchange, "" if explained is None else explained.pool)


def _headers(service: Service, exchange: Exchange) -> Iterator[Step]:
    """The HEADER rules that hold."""
    for rule in service.rules.headers:
        if rule.when is not None and not rule.when.hold(exchange):
            continue
        side = "RESPONSE " if rule.response else "REQUEST " if rule.when is not None or rule.verb in (SET, ADD) else ""
        value = "" if rule.value is None else f": {rule.value.fill(exchange).decode('latin-1')}"
        when = "" if rule.when is None else f" WHEN {shown_when(rule.when, rule.when_said)}"
        yield Step("rule", service.name, f"HEADER {side}{rule.verb} {rule.name.decode()}{value}{when}")


def _limits(service: Service, exchange: Exchange) -> Generator[Step, None, str]:
    """What each limit says of the request; the answer if one refuses it."""
    within, over = excess(service.limiting, exchange)
    for limit, _ in within:
        yield Step("limit", service.name, f"{limit.said}: within it")
    for limit, _, _ in over:
        yield Step("limit", service.name, f"{limit.said}: over it{', which is only counted' if limit.dry else ''}")
    longest = max((wait for limit, _, wait in over if not limit.dry), default=0.0)
    return f"429: over a limit, Retry-After {seconds(longest)}" if longest else ""


def _refusal(service: Service, exchange: Exchange) -> str:
    """The answer that it gets before any hook sees it; "" if none."""
    request, values = exchange.request, service.values
    if service.standing is Standing.DISABLED:
        return "503: the service is disabled"
    if service.handler is None or not service.opened:
        return "it is not open: the first request that a selector hands it opens it, if it is complete, and gets 500 if not"
    if not ends(exchange, (*service.rules.slow, *service.slow_limits)):
        return TOO_LONG
    answer = entrance.explained(service, exchange)
    if answer:
        return answer
    if request.underscores and values["header_underscores"] == "refuse":
        return "400: a header field name has '_' in it (header_underscores)"
    if request.framing > 0 and values["max_body"] and request.framing > values["max_body"] and _binds(service):
        return f"413: the body is larger than {values['max_body']} bytes (max_body)"
    return ""


def _binds(service: Service) -> bool:
    """Whether its max_body holds here: a selector's does where it was SET."""
    return service.role != "selector" or "max_body" in service.explicit


def _explained(plugin: Plugin, exchange: Exchange, told: list[Explanation | None]) -> None:
    """Add what a plugin would do with a request to `told`."""
    try:
        said = plugin.explain(exchange)
    except TookTooLong:
        said = Explanation([TOO_LONG], takes=True)
    fits = isinstance(said, Explanation) and isinstance(said.words, list | tuple) and all(isinstance(each, str) for each in said.words)
    if said is not None and not fits:
        raise TypeError(f"it returned {shown(said)}, not an Explanation or None")
    told.append(said)


def _plugins(service: Service, exchange: Exchange) -> tuple[Explanation | None, list[Step]]:
    """What the chain would do; the explanation of the plugin that takes the request or hands it on, where one does."""
    steps: list[Step] = []
    chosen: Explanation | None = None
    for name, plugin in _in_turn(service, exchange):
        hooks = [each for each in HOOKS if any(bound.plugin == name for bound in getattr(service.hooks, each))]
        steps.append(Step("plugin", service.name, f"{name}: {' '.join(hooks) or 'no hook of this role'}"))
        told: list[Explanation | None] = []
        asked(service.world, name, _explained, plugin, exchange, told, name="explain")
        explanation = told[0]
        if explanation is None:
            continue
        steps += [Step("plugin", service.name, f"{name}: {words}") for words in explanation.words]
        if explanation.takes or explanation.service:
            return explanation, steps
        if explanation.pool and chosen is None:
            chosen = explanation
    return chosen, steps


def _in_turn(service: Service, exchange: Exchange) -> Chain:
    """The chain in the order in which its plugins see the request: what answers preflights comes before who guards by credentials."""
    first = [bound.plugin for bound in service.hooks.begun_preflight] if exchange.preflight else []
    return sorted(service.plugins, key=lambda pair: first.index(pair[0]) if pair[0] in first else len(first))


def _selected(service: Service, explained: Explanation | None) -> Service | str:
    """The service that a selector hands it to; or the answer where there is none."""
    if explained is not None and explained.takes:
        return "by the plugin"
    name = explained.service if explained is not None and explained.service else service.values["default_service"]
    if not name:
        return "404: no rule fits, and there is no default_service"
    found = service.world.services.get(name.lower())
    return f"500: service '{name}' does not exist" if found is None else found


def _served(service: Service, exchange: Exchange, chosen: str) -> Iterator[Step]:
    """What the role does with what no plugin took. `chosen`: the pool that one chooses, or ""."""
    if isinstance(service.handler, ReverseProxy):
        yield from _relayed(service, service.handler, exchange, chosen)
    elif isinstance(service.handler, WebServer):
        yield from web.explained(service.handler, exchange)


def _steered(service: Service, exchange: Exchange) -> Generator[Step, None, Pool | None]:
    """What the service's rules make of its path, and the pool that they choose. Raises: UnsafePath."""
    rules, values = service.rules, service.values
    exchange.rewritten = rules.target(exchange)
    if exchange.rewritten:
        yield Step("rule", service.name, f"REWRITE makes the target {quoted_text(exchange.rewritten).decode('ascii')}")
    route = rules.route(exchange)
    if route is not None:
        yield Step("rule", service.name, f"ROUTE TO {route.pool.name} WHEN {shown_when(route.when, route.when_said)}")
    if values["fallback_pool"]:
        on = service.world.tunables["fallback_on"].type.render(values["fallback_on"])
        yield Step("rule", service.name, f"fallback_pool = {values['fallback_pool']}, on {on}")
    if route is not None:
        return route.pool
    return service.world.pool(values["pool"]) if values["pool"] else None


def _relayed(service: Service, role: ReverseProxy, exchange: Exchange, chosen: str) -> Iterator[Step]:
    request = exchange.request
    if b"via" in request.fields and role.terms.via in request.fields[b"via"]:
        yield Step("answer", service.name, "508: it came back to the service that sent it")
        return
    if request.method in (b"CONNECT", b"TRACE"):
        yield Step("answer", service.name, f"501: {request.method.decode()} is not offered")
        return
    try:
        pool = yield from _steered(service, exchange)
    except UnsafePath as refusal:
        yield Step("answer", service.name, f"400: REWRITE makes {quoted_text(refusal.path).decode('ascii')} of its path")
        return
    pool = service.world.pools.get(chosen.lower(), pool) if chosen else pool
    if request.framing:
        yield Step("body", service.name, uploads.explained(request, service.values))
    if pool is None or not pool.nodes:
        yield Step("answer", service.name, "503: no pool" if pool is None else f"503: pool {pool.name} has no node")
        return
    yield from _sent(service, role, exchange, pool)


def _sent(service: Service, role: ReverseProxy, exchange: Exchange, pool: Pool) -> Iterator[Step]:
    """The pool, its nodes, and what one of them would be sent."""
    now = service.world.clock.now()
    usable = pool.usable(now)
    well = ", too few are well: all get requests" if pool.open else ""
    method = service.values["balance_method"] or pool.values["balance_method"]
    yield Step("pool", service.name, f"{pool.name}: balance_method {method}, {len(usable)} of {len(pool.nodes)} nodes get requests{well}")
    bored = next((group.bored.by_node for group in role.groups.all() if group.pool is pool), {})
    for node in pool.nodes:
        kept = len(bored.get(node, ()))
        verdict = node.verdict(now)
        told = described(verdict, now) + use_told(verdict.word, pool.use(node, now))
        options = NodeSpec(node.name, node.weight, node.backup, node.most).options
        told += f", {options}" if options else ""
        at = service.world.names.described(node)
        yield Step("node", service.name, f"{node.name}{at} {told}, {node.active} active, {kept} kept connections")
    if not usable:
        yield Step("answer", service.name, f"503: {pool.why_none()}")
        return
    chosen, why = _chosen(pool, str(method), exchange, now)
    for words in (why, _waiting(role, exchange, pool, usable)):
        if words:
            yield Step("pool", service.name, words)
    request = exchange.request if pool.sticky is None else unbound(exchange.request, pool.sticky)
    octets = request_octets(exchange, request, service, (chosen or usable[0]).name, None, role.terms.via)
    for line in octets.removesuffix(b"\r\n\r\n").split(b"\r\n"):
        yield Step("head", service.name, line.decode("latin-1"))
    yield from _reproxied(service, role, exchange, pool)


def _waiting(role: ReverseProxy, exchange: Exchange, pool: Pool, usable: list[Node]) -> str:
    """How it would wait for a node; "" if it would not, as far as that can be said without asking plugins."""
    if not all(node.full for node in usable):
        return ""
    others = sum(len(group.queue) for group in role.groups.all() if group.pool is pool)
    terms = role.terms
    if terms.queue_size and others >= terms.queue_size:
        return f"503: every node is full, and {others} requests wait already (queue_size)"
    high = terms.high_cookie and has_cookie(exchange.request.fields.get(b"cookie", b""), terms.high_cookie, terms.high_contents)
    first = f"; it is of the high class by the cookie {terms.high_cookie.decode()}" if high else ""
    return f"every node is full: it waits, {others} others do{first}"


def _reproxied(service: Service, role: ReverseProxy, exchange: Exchange, pool: Pool) -> Iterator[Step]:
    """What a node may name in place of its answer."""
    if role.reproxy is not None:
        now = service.world.clock.now()
        known = role.reproxy.cache is not None and role.reproxy.cache.knows(exchange, pool.name, now)
        before = "an order for it is remembered: no node is asked while a URL of that works; " if known else ""
        files, urls = service.shown("reproxy_root") or "nowhere", service.shown("reproxy_allow") or "nowhere"
        yield Step("rule", service.name, f"enable_reproxy: {before}a node may name files in {files}, URLs to {urls}, and services")


def _chosen(pool: Pool, method: str, exchange: Exchange, now: float) -> tuple[Node | None, str]:
    """The node that the request says it goes to, and why; None where that is for the moment to decide."""
    held = pool.holder(exchange.request)
    if held is None and method != "hash":
        return None, ""
    node = pool.pick(now, (), exchange, HASH)
    if node is None:
        return None, ""
    if held is None or pool.sticky is None:
        of = cast(HashOf, pool.values["balance_hash"])
        said = OF_POOLS["balance_hash"].type.render(of)
        if of.name and key_octets(of.what, of.name, exchange) == exchange.client_address:
            return node, f"{node.name} by the hash of the client's address, since there is no {said}"
        return node, f"{node.name} by the hash of {said}"
    if node is held:
        return node, f"{node.name} by the cookie {pool.sticky.name.decode()}"
    return (node if method == "hash" else None), f"the cookie {pool.sticky.name.decode()} names {held.name}, which gets no requests"
