"""What a reader of the manual sees of a class: its public members and what they say of themselves, read from its source.

A member is a method or property with a docstring, or an attribute with a string below it, in the class or in `__init__`. One that
says nothing is not shown: what an author may use is documented where it is defined, and nowhere else.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator

Member = tuple[str, str]
"""`name`, or `name(arguments)`, and what it says."""


def members(of: type | object, *names: str) -> Iterator[Member]:
    """Members of a class, or functions of a module, in the order of the source; all that are public, or those named."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(of)))  # type: ignore[arg-type]  # a class or a module
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) and inspect.isclass(of) else tree.body
    for name, shown, text in _walk(body):
        if (not name.startswith("_") and not names) or name in names:
            yield shown, _paragraphs(text)


def _walk(body: list[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    """Name, how it is shown, docstring."""
    for place, node in enumerate(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == "__init__":
                yield from _walk(node.body)
            text = ast.get_docstring(node)
            if text is not None:
                yield node.name, _signature(node), text
        elif isinstance(node, ast.ClassDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.name, node.name, text
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name = target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""
            after = body[place + 1] if place + 1 < len(body) else None
            if name and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                yield name, name, inspect.cleandoc(after.value.value)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """`name` for a property, else `name(a, b=0)`; a coroutine has `async ` before it."""
    decorators = {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}
    if "property" in decorators:
        return node.name
    arguments = [argument.arg for argument in node.args.args if argument.arg != "self"]
    defaults = node.args.defaults
    for place, default in enumerate(defaults, len(arguments) - len(defaults)):
        arguments[place] += f"={ast.unparse(default)}"
    before = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{before}{node.name}({', '.join(arguments)})"


def _paragraphs(text: str) -> str:
    """A docstring in one piece of running text; `See X.` alone says nothing."""
    return " ".join(text.split())
