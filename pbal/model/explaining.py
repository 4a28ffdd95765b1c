"""What `explain` is told: a step on the way of a request that nobody sent, and what a plugin would make of it."""

from typing import NamedTuple


class Step(NamedTuple):
    """A step on the way."""

    what: str
    """listener, service, plugin, rule, poll, publish, file, pool, node, head, answer."""
    service: str
    detail: str


class Explanation(NamedTuple):
    """What a plugin would do with a request, as far as can be told without running its hooks."""

    words: list[str]
    """For the operator, a line each: "a poll on queue lobby"."""
    service: str = ""
    """The service that it would hand the request to, "" if it hands it to none."""
    takes: bool = False
    """Whether the request ends here: neither the plugins after it nor the role would see it."""
    host: bytes = b""
    """The Host that it would give the request before it hands it on, b"" if it leaves Host as it is."""
    pool: str = ""
    """The pool that it would send the request to (select_pool), "" if it chooses none."""
