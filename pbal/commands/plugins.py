"""LOAD, RELOAD, UNLOAD: of plugins, and of certificates."""

from pbal import loader
from pbal.commands.session import Session
from pbal.lang.mistakes import near
from pbal.model.errors import ConfigError, NotBuilt, UnknownName
from pbal.model.renewal import renew, secured_services
from pbal.schema import perlbal
from pbal.schema.commands import OK, CommandError, Reply, command


@command
async def load(session: Session, plugin: str) -> Reply:
    """Load a plugin that comes with pbal or is in SERVER plugin_path. Loading it again changes nothing.

    Source: Perlbal manual, LOAD. differs: plugins are Python. Of one that was written for Perlbal, the error says what does its work.
    """
    if plugin.lower() == "include":
        session.warn("INCLUDE needs no LOAD", "plugin")
        return OK
    try:
        loaded = await loader.load(session.world, session.interpreter, plugin)
    except UnknownName as error:
        if error.about == plugin:
            raise _unknown(plugin, error) from None
        raise
    session.note("plugin", loaded.name)
    return OK


def _unknown(plugin: str, error: UnknownName) -> ConfigError | CommandError:
    """What to say of a plugin that is not there: misspelt, Perlbal's, or somebody's for Perlbal."""
    if plugin.lower() in perlbal.PLUGINS:
        return NotBuilt(perlbal.PLUGINS[plugin.lower()].message, about=plugin)
    if near(plugin, error.candidates):
        return error
    return CommandError(error.message, "plugin", perlbal.replacement(plugin), kind=error.kind, subject=plugin)


@command
async def reload(session: Session, plugin: str) -> Reply:
    """Load a plugin's file again and replace the plugin on every service. Parked polls and tunables stay.

    If the new file cannot be imported, fails a check, or would refuse a value that was set, the old plugin goes on serving.
    If the new file has no tunable of a name any more, what was set of it is dropped, and the log says so.
    Source: Perlbal manual, RELOAD. differs: every plugin can be reloaded.
    """
    session.runtime()
    await loader.reload(session.world, session.interpreter, plugin)
    return OK


@command
async def reload_certificates(session: Session) -> Reply:
    """Read the certificates of every service anew, with its ssl_* tunables, and use them for handshakes from now on: all, or none.

    Connections go on. A file that is written is taken up within seconds without this.
    """
    session.runtime()
    await renew(secured_services(session.world))
    return OK


@command
async def unload(session: Session, plugin: str) -> Reply:
    """Forget a plugin that no service uses, with what was set of its tunables.

    Source: Perlbal manual, UNLOAD. differs: an error while a service uses the plugin.
    """
    if plugin.lower() not in session.world.plugins:
        raise UnknownName(f"plugin '{plugin}' is not loaded", plugin, session.world.plugins)
    await loader.unload(session.world, session.interpreter, plugin)
    if session.live:
        await session.interpreter.built()
    return OK
