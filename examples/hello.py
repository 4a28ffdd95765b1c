"""A handler for examples/cgilike.conf. Change it, and say `use hello` and `perlhandler = hello::handler` on the console."""

from html import escape
from typing import Any


def handler(request: Any) -> int:
    """Greet whoever asks for /hello."""
    if request.path() != "/hello":
        return int(request.DECLINED)
    name = dict(request.query_args()).get("name", "world")
    request.print(f"<!DOCTYPE html><title>Hello</title><p>Hello, {escape(name)}.</p>\n")
    return int(request.HANDLED)
