"""A configuration file read beside the running configuration, a slice a turn of the loop.

A Draft is a World without a server, made by the very code that reads the file at start. Plugins that run already are lent to it, classes,
grammar and all, so that nothing is imported twice; others are imported in a thread, when their LOAD comes, and belong to the draft until it
is put to use. A parser that is not there is built in a thread, too.
Whoever drafts holds the lock of statements, so the running configuration stands still meanwhile.
"""

import asyncio
from collections.abc import Callable, Container, Generator, Mapping
from contextlib import suppress
from pathlib import Path

from pbal import importing, loader
from pbal.commands.files import MOST_MISTAKES, FileRun, divided, octets_of
from pbal.commands.interpreter import Interpreter
from pbal.commands.slices import in_slices
from pbal.config.spec import Config
from pbal.lang.mistakes import Mistake
from pbal.lang.parser import GrammarMistake
from pbal.model import faults
from pbal.model.errors import ConfigError
from pbal.model.snapshot import in_pieces
from pbal.model.world import LoadedPlugin, World
from pbal.schema.commands import CommandError
from pbal.schema.kinds import Kind
from pbal.schema.tunables import Tunable


class Draft:
    """A file that was read: what it makes, and its mistakes."""

    def __init__(self, interpreter: Interpreter, run: FileRun, running: Container[str]) -> None:
        self._running = running
        self.interpreter = interpreter
        self.world = interpreter.world
        self.run = run
        self.config = Config((), (), (), (), ())

    @property
    def mistakes(self) -> list[Mistake]:
        """What is wrong in the file, in order."""
        return self.run.mistakes

    async def close(self, kept: bool = False) -> None:
        """Take it to pieces, in slices: left to the collector, it would go in one turn of the loop. `kept`: its plugins stay."""
        for name, loaded in self.world.lent.items():
            if isinstance(loaded, LoadedPlugin) and name not in self._running and not (kept and name in self.world.plugins):
                importing.forget(loaded.module)
        self.run.close()
        await in_slices(self._pieces())

    def _pieces(self) -> Generator[None, None, None]:
        world = self.world
        while world.services:
            _, service = world.services.popitem()
            service.replace_chain([])
            yield
        while world.pools:
            _, pool = world.pools.popitem()
            pool.dissolve()
            yield


async def read(live: Interpreter, path: Path, instead: Mapping[Path, bytes] | None = None, record: bool = False) -> Draft:
    """Read a file, and those it includes; `instead` has what is to be read in place of some of them, by their real paths.

    Raises: ConfigError if the file cannot be read.
    """
    loop = asyncio.get_running_loop()
    instead = instead or {}
    try:
        data = await loop.run_in_executor(None, _data, path, instead)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", about=str(path), kind=Kind.SYSTEM) from None
    lines = divided(data)
    world = World(live.world.clock)
    running = dict(live.world.plugins)
    world.lent = running
    world.readings = live.world.readings
    world.readings.keep(live.world.services.values())  # others of before may have been written meanwhile
    interpreter = Interpreter(world)
    interpreter.instead = instead
    run = interpreter.begin_file(str(path), lines)
    run.record = [] if record else None
    draft = Draft(interpreter, run, running)
    try:
        while not await in_slices(_steps(interpreter, run)):
            await _fetch(live, interpreter, run)
        if not run.mistakes:
            draft.config = await in_slices(in_pieces(world))
    except BaseException:
        await draft.close()
        raise
    finally:
        interpreter.end_file(run)
    return draft


def _data(path: Path, instead: Mapping[Path, bytes]) -> bytes:
    """What is in a file, or is to be read in its place. It waits for the disk. Raises: OSError."""
    place = path.resolve()
    return instead[place] if place in instead else octets_of(path)


def _steps(interpreter: Interpreter, run: FileRun) -> Generator[None, None, bool]:
    """Carry out the lines up to one that needs what is not there: a plugin, a file, or the parser. False then; True at the end."""
    while not _needs(interpreter, run):
        if len(run.mistakes) >= MOST_MISTAKES or not run.step():
            yield
            run.end()
            return True
        yield
    return False


def _needs(interpreter: Interpreter, run: FileRun) -> bool:
    """Whether the next line needs what _fetch has made in threads."""
    name = run.next_plugin()
    missing = bool(name) and name not in interpreter.world.lent
    return missing or not interpreter.language.built or run.next_work() is not None or bool(_unread(interpreter.world, run))


def _unread(world: World, run: FileRun) -> list[tuple[Tunable, object]]:
    """The files that the service names which the next line enables, and that nobody has read."""
    service = world.services.get(run.next_enabled())
    return [] if service is None else world.readings.missing(service)


async def _fetch(live: Interpreter, interpreter: Interpreter, run: FileRun) -> None:
    """Have what the next line needs, made in threads."""
    loop = asyncio.get_running_loop()
    if not interpreter.language.built:
        await loop.run_in_executor(None, interpreter.language.build)
    name, world = run.next_plugin(), interpreter.world
    await world.readings.ahead(_unread(world, run))
    if name and name not in world.lent:
        found = await loader.read_ahead(live.world, world, name)
        world.lent = {**world.lent, name: found}
        if isinstance(found, LoadedPlugin):
            with suppress(GrammarMistake):  # LOAD tells it
                await loop.run_in_executor(None, interpreter.language_with(found).build)
    found_work = run.next_work()
    if found_work is not None:
        key, work = found_work
        try:
            interpreter.made[key] = await loader.in_a_thread(lambda: _outcome(work), key[0], lambda made: None)
        except ConfigError as error:
            interpreter.made[key] = CommandError(error.message)


def _outcome(work: Callable[[], object]) -> object:
    """What somebody's program makes, or what is to be said of its fault."""
    try:
        return work()
    except CommandError as error:
        return error
    except faults.CAUGHT as error:
        return CommandError(faults.describe(error))
