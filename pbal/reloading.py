"""RELOAD: new generations of plugins in place of those that serve, all of those that are named or none.

    the new files are imported beside the old, in a thread, and checked
    quiesce() of every old instance, which may wait
    from here on nothing waits: tunables, check(), carry() and adopt(), open(), then the swap of every chain
    close() of the old instances

A failure before the swap leaves the old generations serving and says file and line. What the old one had and somebody still needs is
refused with the names of who needs it: a tunable that is SET, a statement that stands, a role whose services run the plugin.

The files of the generation before are kept, so that RELOAD PREVIOUS can go back to it when the new one does not do.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from pbal.importing import forget, where
from pbal.lang.mistakes import Mistake
from pbal.lang.parser import Language
from pbal.loader import Statements, beside, make, read_beside
from pbal.model import faults, garbage
from pbal.model.chained import guards_nothing
from pbal.model.change import Change, restore
from pbal.model.errors import ConfigError, UnknownName
from pbal.model.plugin import Plugin
from pbal.model.telling import statements_or_why
from pbal.model.world import LoadedPlugin, World
from pbal.net.tasks import NotInTime, within
from pbal.schema.kinds import Kind
from pbal.schema.said import shown
from pbal.schema.tunables import Tunable
from pbal.schema.types import either

log = logging.getLogger("pbal.plugins")

QUIESCE_LIMIT = 30.0
"""Seconds a plugin may wait before a RELOAD. One that waits for ever would keep every LOAD and RELOAD after it waiting."""

Pair = tuple[LoadedPlugin, LoadedPlugin]
"""An old generation and the new one."""


async def reload(world: World, statements: Statements, names: Sequence[str]) -> None:
    """RELOAD. Raises: ConfigError; the old generations serve on then."""
    olds = list({(found := world.loaded_plugin(name)).name: found for name in names}.values())
    pairs: list[Pair] = []
    try:
        for old in olds:
            pairs.append((old, await read_beside(world, old.name, old.generation + 1)))
    except UnknownName:
        _forget(pairs)
        raise ConfigError(f"plugin '{old.name}' is not reloaded, the old one serves on: {old.path} is gone", about=old.name) from None
    except BaseException:
        _forget(pairs)
        raise
    for old, new in pairs:
        new.former = old.kept if old.kept is not None and new.kept is not None and old.kept.files != new.kept.files else old.former
    await _replace(world, statements, pairs)


async def reload_previous(world: World, statements: Statements, name: str) -> None:
    """RELOAD PREVIOUS: a new generation of the files before the last change. Raises: ConfigError."""
    old = world.loaded_plugin(name)
    former = old.former
    if former is None:
        raise ConfigError(f"plugin '{old.name}' has no generation before this one", about=name)
    new = await beside(world, old.name, lambda: make(former, old.generation + 1))
    new.former = old.kept
    new.left = None if old.kept is None else old.kept.stamp
    await _replace(world, statements, [(old, new)])


async def _replace(world: World, statements: Statements, pairs: Sequence[Pair]) -> None:
    """Have new generations serve. Raises: ConfigError; the old ones serve on then."""
    swap = _Swap(world, statements, pairs)
    before = await world.readings.ahead(_named_by(world, pairs))
    try:
        await swap.prepare()
        swap.carry_out()
    except faults.CAUGHT as error:
        for name, instance in swap.resting:
            faults.guarded(world, name, instance.resume)
        _forget(pairs)
        world.readings.back(before)
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            raise
        raise swap.refusal(error) from error
    for old, new in pairs:
        forget(old.module)
        garbage.collect_soon(world, old.frozen)
        fields = {"event": "plugin_loaded", "plugin": new.name, "generation": new.generation}
        log.info("plugin %(plugin)s: generation %(generation)d serves", fields)


def _named_by(world: World, pairs: Sequence[Pair]) -> list[tuple[Tunable, object]]:
    """The files that new generations will ask for: they are read again."""
    found: list[tuple[Tunable, object]] = []
    for old, new in pairs:
        for tunable in new.plugin_class.tunables if any(world.users(old.name)) else ():
            if tunable.reads is not None:
                found += [
                    (tunable, value) for service in world.services.values() if (value := service.values.get(tunable.name)) is not None
                ]
    return found


class _Swap:
    """One RELOAD, from what may wait to the swap."""

    def __init__(self, world: World, statements: Statements, pairs: Sequence[Pair]) -> None:
        self._world = world
        self._statements = statements
        self._pairs = pairs
        self._prepared: tuple[Any, Any] = (None, None)
        self._at = pairs[0]
        """Those that are looked at."""
        self.resting: list[tuple[str, Plugin]] = []
        """Old instances that were told to be quiet."""

    async def prepare(self) -> None:
        """What may wait. Raises: whatever is wrong."""
        self._prepared = await self._statements.prepare(*(new for _, new in self._pairs))
        for pair in self._pairs:
            self._at = pair
            for _, instance in self._world.instances(pair[0].name):
                self.resting.append((pair[0].name, instance))
                await _quiesce(instance)

    def carry_out(self) -> None:
        """Check, hand over, open and swap; nothing waits. Raises: whatever is wrong."""
        world = self._world
        replaced: dict[Plugin, Plugin] = {}
        with world.changing() as change:
            for each in (self._take_back, self._declare):  # all are gone before any comes: one may move from a plugin to another
                for pair in self._pairs:
                    self._at = pair
                    each(*pair, change)
            change.then(self._statements.install, *self._prepared)
            for pair in self._pairs:
                self._at = pair
                _swap_instances(world, *pair, change, replaced)
            for service in world.services.values():
                if any(plugin in replaced for _, plugin in service.plugins):
                    chain = service.as_said([(name, replaced.get(each, each)) for name, each in service.plugins])
                    change.then(service.replace_chain, service.in_order(chain))
            for former in replaced:
                old = next(old for old, _ in self._pairs if type(former) is old.plugin_class)
                if former.service.opened:
                    change.then(faults.guarded, world, old.name, former.close, old.generation)

    def _take_back(self, old: LoadedPlugin, new: LoadedPlugin, change: Change) -> None:
        """What a generation does not bring any more. Raises: ConfigError, also for what it brings and somebody else has, and keeps."""
        going = [_names(each.plugin_class) - _names(its.plugin_class) for each, its in self._pairs]
        self._world.refuse_known(new.plugin_class.tunables, _names(old.plugin_class).union(*going))
        _refuse_what_is_needed(self._world, old, new)
        _refuse_what_stands(self._world, old, self._statements.language, self._prepared[0])
        _forget_tunables(self._world, old, new, change)

    def _declare(self, old: LoadedPlugin, new: LoadedPlugin, change: Change) -> None:
        """What a generation brings, in place of what the one before brought."""
        self._world.refuse_known(new.plugin_class.tunables, _names(old.plugin_class))
        self._world.refuse_counters(old.name, new.plugin_class.counters, {each.name: each.plugin_class.counters for _, each in self._pairs})
        self._world.refuse_roles(old.name, new.plugin_class.conversations)
        _bring_tunables(self._world, new)
        self._world.counters.declare(new.plugin_class.counters)
        new.errors, new.timings = old.errors, old.timings
        change.then(self._world.plugins.__setitem__, old.name, new)
        change.then(self._world.bring_roles, old.name, new.plugin_class.conversations)

    def refusal(self, error: BaseException) -> ConfigError:
        """What the operator is told."""
        names = " and ".join(f"'{old.name}'" for old, _ in self._pairs)
        fault = where(error, self._at[1].path)
        if len(self._pairs) == 1:
            return ConfigError(f"plugin {names} is not reloaded, the old one serves on: {fault}")
        return ConfigError(f"plugins {names} are not reloaded, the old ones serve on: {self._at[0].name}: {fault}")


def _names(plugin_class: type[Plugin]) -> frozenset[str]:
    """Those of its tunables."""
    return frozenset(tunable.name for tunable in plugin_class.tunables)


def _forget(pairs: Sequence[Pair]) -> None:
    for _, new in pairs:
        forget(new.module)


async def _quiesce(instance: Plugin) -> None:
    """Raises: what quiesce() raises, or ConfigError after QUIESCE_LIMIT."""
    try:
        await within(QUIESCE_LIMIT, instance.quiesce())
    except NotInTime:
        raise ConfigError(f"quiesce() of the old one did not end within {QUIESCE_LIMIT:g} s") from None


def _refuse_what_is_needed(world: World, old: LoadedPlugin, new: LoadedPlugin) -> None:
    """Raises: ConfigError with the names of who needs what the new generation has not."""
    for gone in sorted(_names(old.plugin_class) - _names(new.plugin_class)):
        needs = who_set(world, gone)
        if needs:
            message = f"there is no tunable '{gone}' any more, and it is said by {', '.join(needs)}: UNSET it first"
            raise ConfigError(message, about=gone, kind=Kind.CONFLICT)
    brought = [each.role.name for each in old.plugin_class.conversations]
    missing = world.of_role([name for name in brought if name not in {each.role.name for each in new.plugin_class.conversations}])
    if missing:
        raise ConfigError(f"it would not bring the role of {', '.join(missing)} any more", about=old.name, kind=Kind.CONFLICT)
    roles = new.plugin_class.roles
    users = [service.name for service, _ in world.users(old.name) if roles and service.role not in roles]
    if users:
        message = f"it would work on {either(sorted(roles))} services alone, and is in the chain of {', '.join(users)}"
        raise ConfigError(message, about=old.name, kind=Kind.CONFLICT)
    open_ = [service.name for service, _ in world.users(old.name) if guards_nothing(new.plugin_class, service.role)]
    if open_:
        message = f"it guards, none of its hooks would run on {', '.join(open_)}, and it would keep nobody out there"
        raise ConfigError(message, about=old.name, kind=Kind.CONFLICT)


def _refuse_what_stands(world: World, old: LoadedPlugin, before: Language, after: Language) -> None:
    """Raises: ConfigError with the statements of the plugin that stand and are none any more."""
    gone = before.rules - after.rules
    if not gone:
        return
    stand: list[str] = []
    for service, plugin in world.users(old.name):
        for text in statements_or_why(service, old.name, plugin):
            try:
                statement = before.parse_line(text)
            except Mistake:
                continue
            if statement is not None and statement.rule in gone:
                stand.append(f"{text} of {service.name}")
    if stand:
        raise ConfigError(f"statements that stand would be none any more: {'; '.join(stand)}", kind=Kind.CONFLICT)


def who_set(world: World, tunable: str) -> list[str]:
    """Who says what a tunable is: `SET site.x`, `DEFAULT x`."""
    said = [f"SET {service.name}.{tunable}" for service in world.services.values() if tunable in service.explicit]
    return said + ([f"DEFAULT {tunable}"] if tunable in world.defaults else [])


def _forget_tunables(world: World, old: LoadedPlugin, new: LoadedPlugin, change: Change) -> None:
    """The tunables go that the new generation does not have."""
    for texts in (world.tunables, world.defaults):
        change.undo(restore, texts, dict(texts))
    for service in world.services.values():
        for texts in (service.values, service.explicit, service.defaults):
            change.undo(restore, texts, dict(texts))
    for gone in sorted(_names(old.plugin_class) - _names(new.plugin_class)):
        world.forget_tunable(gone)


def _bring_tunables(world: World, new: LoadedPlugin) -> None:
    """The new generation's tunables, with what was said of them."""
    for tunable in new.plugin_class.tunables:
        _refuse_what_was_said(world, tunable)
        world.add_tunable(tunable)
        for service in world.services.values():
            if tunable.name in service.explicit:
                service.values[tunable.name] = tunable.parse(service.explicit[tunable.name])


def _refuse_what_was_said(world: World, tunable: Tunable) -> None:
    """Raises: ConfigError if the new generation would refuse what was SET or is a DEFAULT."""
    said = [(f"DEFAULT {tunable.name}", world.defaults.get(tunable.name))]
    for service in world.services.values():
        if tunable.name in service.explicit and service.role and not tunable.fits(service.role):
            raise ConfigError(f"'{tunable.name}' is set on {service.name}, a {service.role}, and would not be one of its tunables any more")
        said.append((f"DEFAULT {tunable.name} of {service.name}", service.defaults.get(tunable.name)))
        said.append((f"SET {service.name}.{tunable.name}", service.explicit.get(tunable.name)))
    for what, text in said:
        try:
            if text is not None:
                tunable.parse(text)
        except ValueError as error:
            raise ConfigError(f"{what} = {shown(text or '')}: {error}") from None


def _swap_instances(world: World, old: LoadedPlugin, new: LoadedPlugin, change: Change, replaced: dict[Plugin, Plugin]) -> None:
    """New instances for the old ones: checked, filled with what was carried, opened."""
    made = [(service, former, new.plugin_class(service, world)) for service, former in world.users(old.name)]
    for service, _, instance in made:
        if service.opened:  # else it may be incomplete, and is checked when it is opened
            instance.check()
    for service, former, instance in made:
        if service.opened:
            change.undo(faults.guarded, world, old.name, instance.close, new.generation)
        instance.adopt(former.carry())
        if service.opened:
            instance.open()
        replaced[former] = instance


__all__ = ["reload", "reload_previous", "who_set"]
