"""address_list: only clients whose addresses a file has are served; the others get 403.

    LOAD address_list
    CREATE SERVICE site
      SET plugins      = address_list
      SET address_list = /etc/pbal/friends

The file has an address or a network on a line, and comments after #. It is read when the service is opened, and again with
`ADDRESSES AGAIN`. An address is the client's after trust (trusted_upstream_proxies). The plugin guards: if it fails, nobody is let in.
"""

from pathlib import Path
from typing import Any

from pbal.api import NETWORKS, OK, PATH, ConfigError, Counter, Exchange, Networks, Plugin, Reply, Tunable, Verdict, hook


def addresses_again(session: Any) -> Reply:
    """Read the files of address_list again. One that cannot be read leaves what was read before."""
    found = [(plugin, plugin.read()) for _, plugin in session.world.instances("address_list")]
    for plugin, networks in found:
        plugin.networks = networks
    return OK


class AddressList(Plugin):
    tunables = (Tunable("address_list", PATH, summary="File with the addresses that are let in."),)
    counters = (Counter("address_list_refused", "Requests from addresses that address_list does not have."),)
    commands = (addresses_again,)
    grammar = """
        %extend statement: addresses_again
        addresses_again: "ADDRESSES"i "AGAIN"i
    """
    guards = True
    networks: Networks

    def read(self) -> Networks:
        """The file. Raises: ConfigError."""
        file = self.service["address_list"]
        if file is None:
            raise ConfigError("address_list: SET address_list to a file first", about="address_list")
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
            said = " ".join(line.partition("#")[0] for line in lines).split()
            return Networks(NETWORKS.parse(" ".join(said)) if said else ())
        except (OSError, ValueError) as error:
            raise ConfigError(f"address_list: {file}: {error}", about="address_list") from None

    def check(self) -> None:
        self.read()

    def open(self) -> None:
        self.networks = self.read()

    def changed(self, tunable: str) -> None:
        if tunable == "address_list":
            self.networks = self.read()

    @hook.start_http_request
    def let_in(self, exchange: Exchange) -> Verdict:
        if exchange.client_address in self.networks:
            return Verdict.PASS
        self.counts["address_list_refused"] += 1
        exchange.respond(403, (), b"Not from where you are.\n")
        return Verdict.TAKEN
