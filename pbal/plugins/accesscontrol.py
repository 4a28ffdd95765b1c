"""accesscontrol: a service refuses clients by their address, or serves them last.

    LOAD accesscontrol
    CREATE SERVICE site
      SET role    = reverse_proxy
      SET plugins = accesscontrol
      ACCESS ALLOW NETMASK 10.0.0.0/8
      ACCESS QUEUE_LOW NETMASK 192.168.7.0/24
      ACCESS POLICY DENY

The first rule, in the order of the statements, that fits the client's address decides; where none fits, ACCESS POLICY does, which is ALLOW
unless it is set. Who is refused is answered 403. Polls, streams and upgrades are requests like others: they are looked at when they come.
A change of the rules ends nothing that is under way. A client without an address, on a Unix socket, fits no rule.

The address is the client's after trust: a proxy in trusted_upstream_proxies names it. `SET site.accesscontrol.use_observed_ip = off` takes
the peer's, whatever it names.

A request costs one search, however many rules there are. It guards the service: its rules are asked before any plugin that does not
guard. If it fails, the client is answered 500, and if it fails often the service answers 503 (`plugin_error_limit`).

Source: Perlbal's AccessControl. differs: the client's address is seen after trust unless use_observed_ip is off; an `ip` is an address
however it is spelt, and networks may be IPv6; QUEUE_LOW is refused where the role has no queue; SET plugins stands before ACCESS.
"""

import ipaddress
from typing import Any, Final

from pbal.api import (
    BOOL,
    NETWORKS,
    OK,
    CommandError,
    ConfigError,
    Counter,
    Exchange,
    Explanation,
    Kind,
    Network,
    NetworkTable,
    Plugin,
    Reply,
    Tunable,
    Verdict,
    bad_argument,
    hook,
)

ALLOW: Final = "ALLOW"
DENY: Final = "DENY"
QUEUE_LOW: Final = "QUEUE_LOW"

Rule = tuple[str, str, Network]
"""What is done, IP or NETMASK, and with whom."""


def _rule(session: Any, action: str, address: str | None, network: str | None) -> Reply:
    instance: AccessControl = session.on_service("accesscontrol")
    if action == QUEUE_LOW and instance.service.role != "reverse_proxy":
        raise ConfigError(
            f"service '{instance.service.name}' is a {instance.service.role}, where no request waits: QUEUE_LOW has no effect"
        )
    if network is not None:
        instance.add((action, "NETMASK", _network(network)))
        remark = NETWORKS.odd(network)
        if remark:
            session.warn(remark, "network", kind=Kind.BAD_VALUE)
        return OK
    try:
        instance.add((action, "IP", ipaddress.ip_network(ipaddress.ip_address(address or ""))))
    except ValueError:
        hint = f"did you mean ACCESS {action} NETMASK {address}?" if "/" in (address or "") else ""
        message = f"expected an address such as 10.0.0.1 or ::1, found '{address}'"
        raise CommandError(message, "address", hint, kind=Kind.BAD_VALUE) from None
    return OK


def _network(text: str) -> Network:
    try:
        (found,) = NETWORKS.parse(text)
    except ValueError as error:
        raise bad_argument("network", error) from None
    return found


def access_allow(session: Any, address: str | None = None, network: str | None = None) -> Reply:
    """Serve clients with an address, or in a network. The first ACCESS rule that fits a client decides.

    A network is 10.0.0.0/8, 2001:db8::/32, or what Perlbal takes for one: 10/8, 10.0.0.0:255.0.0.0.
    Source: Perlbal manual, ACCESS ALLOW.
    """
    return _rule(session, ALLOW, address, network)


def access_deny(session: Any, address: str | None = None, network: str | None = None) -> Reply:
    """Answer 403 to clients with an address, or in a network. The first ACCESS rule that fits a client decides.

    Source: Perlbal manual, ACCESS DENY.
    """
    return _rule(session, DENY, address, network)


def access_queue_low(session: Any, address: str | None = None, network: str | None = None) -> Reply:
    """Serve clients with an address, or in a network, after others where requests wait. The first ACCESS rule that fits a client decides.

    Source: Perlbal manual, ACCESS QUEUE_LOW. differs: it is refused on a service that is no reverse_proxy.
    """
    return _rule(session, QUEUE_LOW, address, network)


def access_policy(session: Any, policy: str) -> Reply:
    """Say what becomes of clients that no ACCESS rule fits: allow or deny.

    Source: Perlbal manual, ACCESS POLICY.
    """
    instance: AccessControl = session.on_service("accesscontrol")
    if policy.upper() not in (ALLOW, DENY):
        message = f"policy must be 'allow' or 'deny', found '{policy}'"
        raise CommandError(message, "policy", kind=Kind.BAD_VALUE, candidates=("allow", "deny"))
    instance.policy = policy.upper()
    return OK


def access_reset(session: Any) -> Reply:
    """Drop all ACCESS rules of the service; the policy is ALLOW again.

    Source: Perlbal manual, ACCESS RESET.
    """
    session.on_service("accesscontrol").adopt(([], ALLOW))
    return OK


class AccessControl(Plugin):
    """The rules of one service."""

    roles = frozenset({"reverse_proxy", "web_server", "selector"})
    commands = (access_allow, access_deny, access_queue_low, access_policy, access_reset)
    guards = True
    tunables = (
        Tunable(
            "accesscontrol_use_observed_ip",
            BOOL,
            default="on",
            perlbal="off",
            summary="ACCESS looks at the client's address as trusted proxies say it. Off: at the peer's.",
            source="differs: on; the address is the last one that is not trusted, not the first of X-Forwarded-For",
        ),
    )
    counters = (Counter("access_denied", "Requests answered 403 because of ACCESS."),)

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self.policy = ALLOW
        self.rules: dict[int, Rule] = {}
        """In their order, by places that only rise: what goes leaves the others where they are."""
        self._next = 0
        self._table = NetworkTable()

    def add(self, rule: Rule) -> None:
        """A rule, after the others."""
        self.rules[self._next] = rule
        self._table.add(rule[2], self._next)
        self._next += 1

    def _place(self, exchange: Exchange) -> int:
        """The place of the rule that decides; -1: the policy does."""
        address = exchange.client_address if self.service["accesscontrol_use_observed_ip"] else exchange.stream.peer
        return self._table.first(address)

    @hook.start_http_request
    def look(self, exchange: Exchange) -> Verdict:
        place = self._place(exchange)
        if (self.policy if place < 0 else self.rules[place][0]) != DENY:
            return Verdict.PASS
        self.counts["access_denied"] += 1
        self.world.log_limited(
            f"access {self.service.name}",
            "service %(service)s: %(client)s is denied by %(rule)s",
            {
                "event": "access_denied",
                "service": self.service.name,
                "client": exchange.client_address.decode("ascii", "replace"),
                "rule": self._said(place),
            },
        )
        exchange.error(403, b"Access denied.\n")
        return Verdict.TAKEN

    @hook.make_low_priority
    def last(self, exchange: Exchange) -> bool:
        place = self._place(exchange)
        return place >= 0 and self.rules[place][0] == QUEUE_LOW

    def _said(self, place: int) -> str:
        return f"ACCESS POLICY {self.policy}" if place < 0 else _statement(self.rules[place])

    def explain(self, exchange: Exchange) -> Explanation | None:
        place = self._place(exchange)
        denied = (self.policy if place < 0 else self.rules[place][0]) == DENY
        if place < 0 and not denied:
            return None
        return Explanation([f"{self._said(place)}{': 403' if denied else ''}"], takes=denied)

    def carry(self) -> tuple[list[Rule], str]:
        return list(self.rules.values()), self.policy

    def adopt(self, carried: tuple[list[Rule], str]) -> None:
        rules, self.policy = carried
        self.rules, self._next = dict(enumerate(rules)), len(rules)
        self._table = NetworkTable(network for _, _, network in rules)

    def dumpconfig(self) -> tuple[str, ...]:
        said = [_statement(rule) for rule in self.rules.values()]
        return (*said, f"ACCESS POLICY {DENY}") if self.policy == DENY else tuple(said)

    def drop_rule(self, statement: str) -> None:
        said = statement.split()
        if said[1] == "POLICY":
            self.policy = ALLOW
            return
        network = _network(said[3])
        place = next(place for place in self._table.places(network) if _statement(self.rules[place]) == statement)
        self._table.remove(network, place)
        del self.rules[place]


def _statement(rule: Rule) -> str:
    action, kind, network = rule
    return f"ACCESS {action} {kind} {network.network_address if kind == 'IP' else network}"
