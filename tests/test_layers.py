"""A layer imports only from its left; a bundled plugin imports pbal.api and nothing else of pbal."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = (
    "build", "observe", "http1", "client", "schema", "lang", "config", "model", "net", "roles", "sources", "importing", "loader",
    "reloading", "watching", "commands", "console", "terminal", "reference", "life", "checking", "formatting", "server", "launch",
    "testing", "manual", "editors",
)  # fmt: skip
RANK = {layer: place for place, layer in enumerate(ORDER)}
ALONE = {"build", "http1", "observe", "queue"}
"""What imports nothing else of pbal at all."""


def sources() -> list[str]:
    """Every module of the package, as a path from the root."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pbal").rglob("*.py"))


def layer_of(module: str) -> str:
    """pbal.net.connection is of 'net'; pbal itself is of ''."""
    return f"{module}.".split(".")[1]


def imported(module: str, is_package: bool, source: str) -> Iterator[str]:
    """Absolute names of all that a module imports, also inside functions; `from a import b` yields a.b."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def complaints(path: str, source: str) -> list[str]:
    """What `path` imports and may not."""
    parts = path.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    layer = layer_of(module)
    found = [name for name in imported(module, is_package, source) if name.split(".")[0] == "pbal"]
    if layer == "plugins":
        own = ".".join(module.split(".")[:3])
        return [f"{module} imports {name}" for name in found if not _of(name, "pbal.api") and not _of(name, own)]
    if layer in ALONE:
        return [f"{module} imports {name}" for name in found if layer_of(name) != layer]
    if layer not in RANK:
        return []
    return [
        f"{module} imports {name}"
        for name in found
        if layer_of(name) == "api" or RANK.get(layer_of(name), -1) > RANK[layer] or _is_plugin_unasked(name, layer)
    ]


def _of(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _is_plugin_unasked(name: str, layer: str) -> bool:
    """The manual prints what the plugins declare; the server learns of a plugin by LOAD only."""
    return layer_of(name) == "plugins" and layer != "manual"


@pytest.mark.parametrize("path", sources())
def test_imports_go_leftwards(path: str) -> None:
    assert complaints(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_module_has_a_layer() -> None:
    elsewhere = {"", "__init__", "__main__", "api", "plugins", "queue", "scaffold"}
    unknown = {layer_of(path.removesuffix(".py").replace("/", ".")) for path in sources()} - set(ORDER) - elsewhere
    assert unknown == set()


def test_the_api_reexports_and_does_nothing_else() -> None:
    tree = ast.parse((ROOT / "pbal/api.py").read_text(encoding="utf-8"))
    kinds = {type(node) for node in tree.body[1:]}
    assert kinds == {ast.ImportFrom, ast.Assign}
    assert {layer_of(f"{node.module}") for node in tree.body if isinstance(node, ast.ImportFrom)} <= set(ORDER[: RANK["roles"]])


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("pbal/net/x.py", "from pbal.roles import chain", "pbal.net.x imports pbal.roles.chain"),
        ("pbal/net/x.py", "def f():\n    import pbal.server", "pbal.net.x imports pbal.server"),
        ("pbal/model/x.py", "from pbal.api import hook", "pbal.model.x imports pbal.api.hook"),
        ("pbal/http1/x.py", "from pbal.observe.counters import Counter", "pbal.http1.x imports pbal.observe.counters.Counter"),
        ("pbal/server.py", "from pbal.plugins.poll import Poll", "pbal.server imports pbal.plugins.poll.Poll"),
        ("pbal/plugins/x.py", "from pbal.model.world import World", "pbal.plugins.x imports pbal.model.world.World"),
        ("pbal/plugins/x.py", "from .vhosts import vhost", "pbal.plugins.x imports pbal.plugins.vhosts.vhost"),
        ("pbal/plugins/poll/x.py", "from ...net import tasks", "pbal.plugins.poll.x imports pbal.net.tasks"),
        ("pbal/plugins/poll/x.py", "from ..vhosts import vhost", "pbal.plugins.poll.x imports pbal.plugins.vhosts.vhost"),
        ("pbal/queue.py", "import pbal.api", "pbal.queue imports pbal.api"),
    ],
)
def test_an_import_to_the_right_is_found(path: str, source: str, complaint: str) -> None:
    assert complaints(path, source) == [complaint]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pbal/roles/x.py", "from pbal.net.connection import ClientConnection"),
        ("pbal/plugins/poll/x.py", "from pbal.api import hook\nfrom . import lot\nimport aiomcache"),
        ("pbal/plugins/poll/__init__.py", "from .plugin import Poll"),
        ("pbal/manual.py", "from pbal.plugins.poll.settings import COUNTERS"),
    ],
)
def test_an_import_to_the_left_is_not(path: str, source: str) -> None:
    assert complaints(path, source) == []
