"""What a plugin must be before it is loaded. Whatever would load in silence and never act is refused here.

An access rule that is `async`, that belongs to another role, or that lost its mark in a subclass lets everybody in, and nothing
tells. So the class is held against HOOKS and against Plugin, and every function that was marked must be among its methods.
The source is read before it runs, for imports of what is not a plugin's business: those parts of pbal change without notice.
"""

import ast
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType

from pbal.model.conversation import Conversation, OwnRole
from pbal.model.declared import check_declarations
from pbal.model.errors import ConfigError
from pbal.model.hooks import HOOKS, MARK, Marked
from pbal.model.plugin import Plugin
from pbal.schema.roles import ROLES

OPEN_TO_PLUGINS = ("pbal.api", "pbal.queue", "pbal.testing")

_LIFE = tuple(name for name, value in vars(Plugin).items() if isinstance(value, FunctionType) and not name.startswith("_"))
_SPOKEN = {name: value for name, value in vars(Conversation).items() if isinstance(value, FunctionType)}
_WAITING = frozenset({"quiesce"})
_ITERATED = frozenset({"complete", "dumpconfig", "limits", "measured", "pools"})
"""What they return is gone through: they may be generators."""


def check_class(plugin_class: type[Plugin], marked: Iterable[Marked]) -> None:
    """Hold a plugin's class against what calls it. `marked`: what its modules marked as hooks while they were imported.

    Raises: ConfigError with method, reason and what would do.
    """
    _check_roles(plugin_class)
    check_declarations(plugin_class, _own_roles(plugin_class))
    for name in ("before", "after"):
        said: object = getattr(plugin_class, name)
        if not isinstance(said, tuple | list) or not all(isinstance(each, str) and each == each.lower() for each in said):
            raise ConfigError(f'{name} is {said!r:.60}: write the names of plugins, in lower case: {name} = ("NAME",)', about=name)
    claimed: dict[str, str] = {}
    for name in dir(plugin_class):
        function = _hook_method(plugin_class, name)
        if function is None:
            continue
        hook = str(getattr(function, MARK))
        if hook in claimed:
            raise ConfigError(f"{claimed[hook]} and {name} both claim hook '{hook}': one method can do both", about=hook)
        claimed[hook] = name
        _check_hook(plugin_class, name, function, hook)
    if plugin_class.guards and not claimed:
        raise ConfigError(f"{plugin_class.__name__} guards, and has no hook: it would keep nobody out", about="guards")
    methods = {id(inspect.unwrap(getattr(plugin_class, name))) for name in claimed.values()}
    for each in marked:
        if id(inspect.unwrap(each.function)) not in methods:
            raise ConfigError(
                f"{each.function.__qualname__} (line {each.function.__code__.co_firstlineno}) is marked @hook.{each.hook} and is no"
                f" method of {plugin_class.__name__}: another of that name replaced it, or it stands outside the class",
                about=each.hook,
            )
    for name in _LIFE:
        _check_life(plugin_class, name)
    _check_making(plugin_class)


def _check_roles(plugin_class: type[Plugin]) -> None:
    roles: object = plugin_class.roles
    if not isinstance(roles, set | frozenset | tuple | list):
        raise ConfigError(f"roles is {roles!r}: write frozenset({{{roles!r}}})", about="roles")
    own = _own_roles(plugin_class)
    for role in roles:
        if role not in ROLES and role not in own:
            raise ConfigError(f"roles names {role!r}; roles are {', '.join((*ROLES, *own))}", about="roles")


def _own_roles(plugin_class: type[Plugin]) -> set[str]:
    """The names of the roles that a plugin brings. Raises: ConfigError for what is none, or one that is there already."""
    said: object = plugin_class.conversations
    if not isinstance(said, tuple | list) or not all(isinstance(each, OwnRole) for each in said):
        raise ConfigError(f"conversations is {said!r:.60}: write conversations = (OwnRole(Role(...), CLASS),)", about="conversations")
    found: set[str] = set()
    for each in plugin_class.conversations:
        name = each.role.name
        if each.role.http or each.role.datagrams or each.role.tunables:
            why = "with http=False, without datagrams, and with its tunables in `tunables` of the plugin"
            raise ConfigError(f"role {name!r} of a plugin is declared {why}", about="conversations")
        if not isinstance(each.conversation, type) or not issubclass(each.conversation, Conversation):
            raise ConfigError(f"role {name!r}: {each.conversation!r:.60} is no subclass of Conversation", about="conversations")
        for method, declared in _SPOKEN.items():
            _check_method(each.conversation, method, declared)
        if name in ROLES or name in found or name != name.lower():
            raise ConfigError(f"role {name!r} has a name that is there already, or is not in lower case", about="conversations")
        found.add(name)
    return found


def _inner(value: object) -> object:
    """What a staticmethod, classmethod, property or partialmethod wraps; other values themselves."""
    for attribute in ("__func__", "fget", "func"):
        value = getattr(value, attribute, None) or value
    return value


def _hook_method(plugin_class: type, name: str) -> FunctionType | None:
    """The hook that attribute `name` is, or None. Raises: ConfigError if one is meant and none would be called."""
    found = [(owner, vars(owner)[name]) for owner in plugin_class.__mro__ if name in vars(owner)]
    marks = [getattr(_inner(value), MARK, None) for _, value in found]
    if not found or not any(marks):
        if name in HOOKS:
            raise ConfigError(f"method {name} has the name of a hook and is not marked: write @hook.{name} above it", about=name)
        return None
    owner, value = found[0]
    if marks[0] is None:
        first = next(place for place, mark in enumerate(marks) if mark)
        raise ConfigError(
            f"{owner.__name__}.{name} replaces hook '{marks[first]}' of {found[first][0].__name__} and is not marked: write"
            f" @hook.{marks[first]} above it, too",
            about=name,
        )
    if not isinstance(value, FunctionType):
        raise ConfigError(f"{name} is a {type(value).__name__}: hook '{marks[0]}' is a plain method, def {name}(self, ...)", about=name)
    return value


def _check_hook(plugin_class: type[Plugin], name: str, function: FunctionType, hook: str) -> None:
    declared = HOOKS[hook]
    if (kind := _kind(function)) is not None:
        raise ConfigError(
            f"{name} is {kind}, and hook '{hook}' is called, not awaited: it would never run. Write a plain def; to wait, return"
            " Verdict.TAKEN and answer from a coroutine started with spawn()",
            about=hook,
        )
    parameters = list(inspect.signature(function).parameters.values())
    arguments = tuple(parameter.name for parameter in parameters[1:])
    odd = [each.name for each in parameters if each.kind is not each.POSITIONAL_OR_KEYWORD]
    if arguments != declared.arguments or odd:
        said, wanted = ", ".join(str(each).split(":")[0] for each in parameters), ", ".join(declared.arguments)
        raise ConfigError(f"{name}({said}): hook '{hook}' is called with ({wanted}): write def {name}(self, {wanted})", about=hook)
    if plugin_class.roles and not declared.roles & set(plugin_class.roles):
        runs, works = " and ".join(sorted(declared.roles)), " and ".join(sorted(plugin_class.roles))
        raise ConfigError(
            f"{name}: hook '{hook}' runs on {runs} services, and the plugin's roles are {works}: it would never run", about=hook
        )


def _kind(function: object) -> str | None:
    """Why a call of `function` would not run its body, or None."""
    for each in (function, inspect.unwrap(function) if callable(function) else function):
        if inspect.isasyncgenfunction(each):
            return "an asynchronous generator"
        if inspect.iscoroutinefunction(each):
            return "async"
        if inspect.isgeneratorfunction(each):
            return "a generator"
    return None


def _check_life(plugin_class: type[Plugin], name: str) -> None:
    """A method that Plugin declares and the class defines anew is called as Plugin says."""
    _check_method(plugin_class, name, vars(Plugin)[name])


def _check_method(owner: type, name: str, declared: FunctionType) -> None:
    """A method that a base class declares, and that this one may define anew, is called as it is declared."""
    value = inspect.getattr_static(owner, name)
    if value is declared:
        return
    if not isinstance(value, FunctionType):
        raise ConfigError(f"{name} is a {type(value).__name__}: it is called as a plain method", about=name)
    kind = _kind(value)
    if name in _WAITING and kind != "async":
        raise ConfigError(f"{name} is awaited: write async def {name}(self)", about=name)
    if name not in _WAITING and kind is not None and not (name in _ITERATED and kind == "a generator"):
        raise ConfigError(f"{name} is {kind}, and is called, not awaited: its body would never run. Write a plain def", about=name)
    wanted = list(inspect.signature(declared).parameters)
    try:
        inspect.signature(value).bind(*wanted)
    except TypeError:
        raise ConfigError(f"{name} is called as {name}({', '.join(wanted[1:])}): def {name}({', '.join(wanted)})", about=name) from None


def _check_making(plugin_class: type[Plugin]) -> None:
    """The class can be made an instance of a service."""
    left = sorted(getattr(plugin_class, "__abstractmethods__", ()))
    if left:
        raise ConfigError(f"{plugin_class.__name__} is abstract: it has no {', '.join(left)}", about=left[0])
    fits = _kind(plugin_class.__init__) is None
    try:
        inspect.signature(plugin_class.__init__).bind(None, None, None)
    except TypeError:
        fits = False
    if not fits:
        raise ConfigError("__init__ is called with (service, world): write def __init__(self, service, world)", about="__init__")


# --- imports -------------------------------------------------------------------------------------------------


def check_imports(path: Path) -> None:
    """Read a plugin's file, or every file of its package, for imports of pbal other than its public parts.

    Raises: ConfigError with file and line. A file that does not parse is left to the import, which says so.
    """
    package = path.name == "__init__.py"
    for file in sorted(path.parent.rglob("*.py")) if package else [path]:
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: it nests too deeply
            continue
        depth = len(file.relative_to(path.parent).parts) if package else 0
        for line, name in _reached(tree, depth):
            raise ConfigError(
                f"{file.name}:{line}: a plugin may not use {name}: it imports pbal.api (pbal.queue, pbal.testing) and nothing else of"
                " pbal; what it needs comes with 'from pbal.api import ...'",
                about=name,
            )


def _reached(tree: ast.Module, depth: int) -> Iterator[tuple[int, str]]:
    """Line and name of every part of pbal that a module reaches and should not. `depth`: levels a relative import may climb."""
    for node in ast.walk(tree):
        for name in _named(node, depth):
            inside = name.startswith(".") or name.split(".")[0] == "pbal"
            if inside and not any(f"{name}.".startswith(f"{each}.") for each in OPEN_TO_PLUGINS):
                yield getattr(node, "lineno", 0), name


def _named(node: ast.AST, depth: int) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level:
        if node.level > depth:
            yield "." * node.level + (node.module or "")
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pbal":
        yield f"pbal.{node.attr}"  # after `import pbal.api`
    elif isinstance(node, ast.Call) and node.args and _last_name(node.func) in ("import_module", "__import__"):
        yield from _text(node.args[0])
    elif isinstance(node, ast.Subscript) and _last_name(node.value) == "modules":
        yield from _text(node.slice)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.startswith("."):
        yield node.value
