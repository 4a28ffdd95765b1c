"""Whether pbal should get clients: what /readyz answers, and the head of the status page."""

from pbal.model.world import World


def why_not_ready(world: World) -> str:
    """Why pbal should get no new clients; '' if it should: all enabled services listen, and no end has begun."""
    runtime = world.runtime
    if runtime is None or world.ending:
        return "pbal is ending"
    serving = {listener.service.name for listener in runtime.listeners() if listener.serving}
    missing = sorted(
        service.name
        for service in world.services.values()
        if service.enabled and service["listen"] is not None and service.name not in serving
    )
    return f"not listening: {', '.join(missing)}" if missing else ""
