"""second_chance: what the nodes of a service do not have (404), another service is asked for.

    LOAD second_chance
    CREATE SERVICE site
      SET role          = reverse_proxy
      SET pool          = app
      SET plugins       = second_chance
      SET second_chance = archive

SET fallback_pool asks another pool; this asks a service, which may be a web_server, or have plugins of its own. A request whose body the
node has had cannot be handed on: its client gets the 404.
"""

from pbal.api import TEXT, Exchange, Plugin, ResponseHead, Tunable, Verdict, hook


class SecondChance(Plugin):
    roles = frozenset({"reverse_proxy"})
    tunables = (Tunable("second_chance", TEXT, default="", summary="Service that is asked for what the nodes do not have."),)

    def check(self) -> None:
        if self.service["second_chance"]:
            self.world.target(self.service["second_chance"])

    @hook.backend_response_received
    def ask_another(self, exchange: Exchange, response: ResponseHead) -> Verdict:
        name = self.service["second_chance"]
        if response.status != 404 or not name or exchange.received or exchange.request.framing:
            return Verdict.PASS
        exchange.hand_to(self.world.service(name))
        return Verdict.TAKEN
