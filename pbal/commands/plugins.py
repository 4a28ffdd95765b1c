"""LOAD, RELOAD, UNLOAD: of plugins, and of certificates."""

from pbal import loader, reloading
from pbal.commands.session import Session
from pbal.lang.mistakes import near
from pbal.model.errors import ConfigError, UnknownName
from pbal.model.renewal import renew, secured_services
from pbal.schema import perlbal
from pbal.schema.commands import OK, CommandError, Reply, command
from pbal.schema.kinds import Kind


@command
async def load(session: Session, plugin: str) -> Reply:
    """Load a plugin that comes with pbal or is in SERVER plugin_path. Loading it again changes nothing.

    Source: Perlbal manual, LOAD. differs: plugins are Python. Of one that was written for Perlbal, the error says what does its work.
    """
    try:
        loaded = await loader.load(session.world, session.interpreter, plugin)
    except UnknownName as error:
        if error.about == plugin:
            raise _unknown(plugin, error) from None
        raise
    session.note("plugin", loaded.name)
    return OK


def _unknown(plugin: str, error: UnknownName) -> ConfigError | CommandError:
    """What to say of a plugin that is not there: misspelt, or somebody's for Perlbal."""
    if near(plugin, error.candidates):
        return error
    return CommandError(error.message, "plugin", perlbal.replacement(plugin), kind=error.kind, subject=plugin)


@command
async def reload(session: Session, plugin: str, more_plugins: str | None = None) -> Reply:
    """Load a plugin's files again and replace the plugin on every service; of several plugins, all together or none.

    Parked polls and tunables stay. If the new files cannot be imported, fail a check, would refuse a value that was set, or lack a
    tunable or a role that somebody needs, the old plugin goes on serving.
    Source: Perlbal manual, RELOAD. differs: every plugin can be reloaded, and several at once.
    """
    session.runtime()
    names = [plugin, *(more_plugins or "").split()]
    await reloading.reload(session.world, session.interpreter, names)
    return OK


@command
async def reload_previous(session: Session, plugin: str) -> Reply:
    """Go back to the files of a plugin as they were before they changed last. The files on the disk stay as they are."""
    session.runtime()
    await reloading.reload_previous(session.world, session.interpreter, plugin)
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
    """Forget a plugin that nobody needs: no service has it in its chain, and none of its tunables is SET or has a DEFAULT.

    Source: Perlbal manual, UNLOAD. differs: an error while somebody needs the plugin.
    """
    if plugin.lower() not in session.world.plugins:
        raise UnknownName(f"plugin '{plugin}' is not loaded", plugin, session.world.plugins)
    loaded = session.world.loaded_plugin(plugin)
    needs = [need for tunable in loaded.plugin_class.tunables for need in reloading.who_set(session.world, tunable.name)]
    if needs and not any(session.world.users(loaded.name)):
        raise ConfigError(f"plugin '{loaded.name}' is needed by {', '.join(needs)}: UNSET it first", plugin, kind=Kind.CONFLICT)
    await loader.unload(session.world, session.interpreter, plugin)
    if session.live:
        await session.interpreter.built()
    return OK
