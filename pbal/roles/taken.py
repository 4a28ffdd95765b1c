"""Requests that a plugin took and does not answer: 504 after taken_timeout, also where their service was dropped meanwhile."""

from pbal.model.world import World
from pbal.observe.recent import Trouble


def answer_late(world: World, now: float) -> None:
    """Called once a second."""
    for exchange, since in list(world.taken.items()):
        service = exchange.service
        limit = service.values["taken_timeout"]
        if not limit or since + limit >= now:
            continue
        world.counters.counts["taken_timeouts"] += 1
        exchange.trouble = Trouble(f"plugin {exchange.owner} took it and did not answer within taken_timeout ({limit:g} s)")
        world.log_limited(
            f"taken {exchange.owner}",
            "plugin %(plugin)s took a request of service %(service)s and did not answer it: 504",
            {"event": "taken_timeout", "plugin": exchange.owner, "service": service.name},
        )
        exchange.fail(504, b"No answer was made in time.\n")
