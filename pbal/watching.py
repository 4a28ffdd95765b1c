"""SERVER plugin_autoreload: a plugin whose files change is reloaded, for people who write plugins.

The files are looked at once a second, in a thread. What a RELOAD would refuse is refused here, too, logged once, and tried again when the
files have changed again; the old generation serves meanwhile. Files that RELOAD PREVIOUS went back from are left alone until they change.
It takes its turn with statements: nothing else changes while it does.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from pbal.importing import Stamp, stamp
from pbal.loader import Statements
from pbal.model.errors import ConfigError
from pbal.model.kept import Kept
from pbal.model.world import World
from pbal.reloading import reload

log = logging.getLogger("pbal.plugins")


class PluginWatch:
    """The files of the plugins of one World."""

    def __init__(self, world: World, statements: Statements) -> None:
        self._world = world
        self._statements = statements
        self._looking = False
        self._refused: dict[str, Stamp | None] = {}
        """By plugin: what its files were when they were refused."""

    def due(self) -> bool:
        """Whether somebody should look."""
        return bool(self._world.server["plugin_autoreload"]) and bool(self._world.plugins) and not self._looking

    async def look(self, alone: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Reload what has changed."""
        self._looking = True
        try:
            loaded_plugins = list(self._world.plugins.values())
            left = {loaded.name: loaded.left for loaded in loaded_plugins}
            held = {loaded.name: loaded.kept for loaded in loaded_plugins if loaded.kept is not None}
            found = await asyncio.get_running_loop().run_in_executor(None, _stamps, held)
            for name, now in found.items():
                if now is not None and now not in (held[name].stamp, left[name], self._refused.get(name)):
                    async with alone():
                        await self._reload(name, now)
        finally:
            self._looking = False

    async def _reload(self, name: str, now: Stamp) -> None:
        loaded = self._world.plugins.get(name)
        if loaded is None or loaded.kept is None or loaded.kept.stamp == now:  # unloaded or reloaded while this waited
            return
        try:
            await reload(self._world, self._statements, [name])
            self._refused.pop(name, None)
        except ConfigError as error:
            self._refused[name] = now
            log.error("plugin_autoreload: %(reason)s", {"event": "reload_refused", "plugin": name, "reason": error.message})


def _stamps(held: dict[str, Kept]) -> dict[str, Stamp | None]:
    """What the files are now."""
    return {name: stamp(kept) for name, kept in held.items()}
