"""Patterns of hosts, and what they lead to: VHOST and REDIRECT go by them.

The host itself is looked for first, then the longest ending that fits. For foo.site.com: foo.site.com, *.foo.site.com, *foo.site.com,
*.site.com, *site.com, *.com, *. A look costs one search in a dict for each length of an ending that there is.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import suppress


def plain_host(host: str) -> str:
    """A host as it is compared: in lower case, without port and trailing dot, an IPv6 address in its shortest form."""
    host = host.lower()
    if host.startswith("[") and "]" in host:
        literal = host[1 : host.index("]")]
        with suppress(ValueError):
            literal = ipaddress.IPv6Address(literal).compressed
        return f"[{literal}]"
    return host.partition(":")[0].removesuffix(".")


class Hosts:
    """Patterns of hosts, and the names of services, to look a host up in."""

    def __init__(self) -> None:
        self._exact: dict[str, str] = {}
        self._ending: dict[str, str] = {}
        """By what a host that fits ends in, with a dot put before it: '' for *, '.site.com' for *.site.com, 'site.com' for *site.com."""
        self._many: dict[int, int] = {}
        """How many of those have which length."""
        self._lengths: list[int] = []
        """These, the longest first."""

    def __bool__(self) -> bool:
        return bool(self._exact or self._ending)

    def add(self, pattern: str, name: str) -> None:
        """A pattern comes, or is for another service."""
        if not pattern.startswith("*"):
            self._exact[pattern] = name
            return
        if pattern[1:] not in self._ending:
            self._count(len(pattern) - 1, 1)
        self._ending[pattern[1:]] = name

    def drop(self, pattern: str) -> None:
        """A pattern goes. Raises: KeyError if it is not there."""
        if not pattern.startswith("*"):
            del self._exact[pattern]
            return
        del self._ending[pattern[1:]]
        self._count(len(pattern) - 1, -1)

    def _count(self, length: int, more: int) -> None:
        before = self._many.get(length, 0)
        self._many[length] = before + more
        if not before or not before + more:
            self._lengths = sorted([each for each, many in self._many.items() if many], reverse=True)

    def fitting(self, host: str) -> Iterator[tuple[str, str]]:
        """The patterns that fit a host, and their services; the most particular first."""
        name = self._exact.get(host)
        if name is not None:
            yield host, name
        dotted = "." + host
        whole = len(dotted)
        for length in self._lengths:
            if length <= whole:
                ending = dotted[whole - length :]
                name = self._ending.get(ending)
                if name is not None:
                    yield "*" + ending, name
