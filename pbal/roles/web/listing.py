"""The list of a directory, as a page that a person can read (dirindexing). It is made in a thread, since each name in it asks the disk.

Folders come first, then files, each by name as people count: `a9` before `a10`, in any case. What would not be served is not listed: dot
files, pipes and devices, links that lead to nothing that may be had. So a list tells nothing that requests for its names would not.

A directory may have any number of names. At most SCANNED are looked at, of which `dirindexing_limit` are shown: the first ones in that
order. The page says what is missing, and `listings_cut` counts it.

The ETag is of the page itself. Last-Modified is that of the directory or of the newest name in it, whatever is later: names that come and
go change the first, files that are written change the second.
"""

import html
import os
import re
import stat
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final
from urllib.parse import quote_from_bytes

from pbal.roles.files.finding import NotServed, Rules, find, find_folder

SCANNED: Final = 20_000
"""Names that are looked at, of one directory."""

_DIGITS: Final = re.compile("([0-9]+)")
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.4rem; font-weight: 600; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; width: 100% }}
th {{ text-align: left; font-weight: 600; border-bottom: 1px solid }}
td, th {{ padding: .1rem .8rem .1rem 0 }}
td:first-child {{ overflow-wrap: anywhere }}
td + td, th + th {{ white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums }}
</style>
<h1>{title}</h1>
{parent}<table>
<tr><th>Name</th><th>Size</th><th>Changed (UTC)</th></tr>
{rows}</table>
{end}</html>
"""
_ROW: Final = '<tr><td><a href="{href}"><bdi>{name}</bdi></a></td><td{exact}>{size}</td><td>{changed}</td></tr>\n'


class Listing:
    """A page that was made."""

    __slots__ = ("cut", "etag", "modified", "page", "shown", "there")

    def __init__(self, page: bytes, modified: int, shown: int, there: int, cut: bool) -> None:
        self.page = page
        self.etag = b'"%b"' % blake2b(page, digest_size=12).hexdigest().encode()
        self.modified = modified
        """Seconds since 1970."""
        self.shown = shown
        self.there = there
        """Names that were looked at."""
        self.cut = cut
        """Whether the page does not have all."""


def listing(rules: Rules, path: bytes, limit: int) -> Listing:
    """The list of the folder at `path` (decoded, with its final slash) of `rules`. It waits for the disk. Raises: NotServed."""
    folder = find_folder(rules, path)
    try:
        names, more = _names(folder, rules, path)
        modified = os.fstat(folder).st_mtime
        rows: list[str] = []
        for name in names:
            if len(rows) == limit:
                break
            facts = _facts(folder, rules, path, name)
            if facts is not None:
                modified = max(modified, facts.st_mtime)
                rows.append(_row(os.fsencode(name), facts))
    finally:
        os.close(folder)
    cut = more or len(rows) == limit < len(names)
    there = len(names)
    end = f"<p>These are the first {len(rows)} of {'more than ' if more else ''}{there}.</p>\n" if cut else ""
    parent = '<p><a href="../">Parent directory</a></p>\n' if path.strip(b"/") else ""
    page = _PAGE.format(title=f"Index of {_readable(path)}", parent=parent, rows="".join(rows), end=end)
    return Listing(page.encode(), int(modified), len(rows), there, cut)


def _names(folder: int, rules: Rules, path: bytes) -> tuple[list[str], bool]:
    """Those of a folder, in their order, as far as the rules allow them; and whether there are more. Raises: NotServed."""
    found: list[tuple[bool, list[str | int], str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not rules.allows(path + os.fsencode(entry.name)):
                    continue
                if len(found) == SCANNED:
                    return [name for _, _, name in sorted(found)], True
                found.append((not _is_folder(entry), _counted(entry.name), entry.name))
    except OSError:
        raise NotServed(500) from None
    return [name for _, _, name in sorted(found)], False


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _counted(name: str) -> list[str | int]:
    """What a name is sorted by: texts, and numbers between them."""
    parts = _DIGITS.split(name.casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]


def _facts(folder: int, rules: Rules, path: bytes, name: str) -> os.stat_result | None:
    """Of a file or folder that would be served; None of anything else."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(facts.st_mode):
            facts = os.stat(name, dir_fd=folder)
            found = find(rules, path + os.fsencode(name))
            if found is not None:
                found.release()
    except (OSError, NotServed):
        return None
    return facts if stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode) else None


def _row(name: bytes, facts: os.stat_result) -> str:
    folder = stat.S_ISDIR(facts.st_mode)
    slash = "/" if folder else ""
    return _ROW.format(
        href=quote_from_bytes(name, safe="") + slash,  # with its `:` and `//` escaped it cannot be taken for another site
        name=_readable(name) + slash,
        exact="" if folder else f' title="{facts.st_size} bytes"',
        size="" if folder else _size(facts.st_size),
        changed=_changed(facts.st_mtime),
    )


def _readable(name: bytes) -> str:
    """For a page: what is not UTF-8, and what cannot be seen, as a mark in its place."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", name.decode("utf-8", "replace")))


def _size(octets: int) -> str:
    if octets < 1000:
        return f"{octets} B"
    size = float(octets)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
    return f"{size:.0f} EB"


def _changed(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # a date that no calendar has
        return "?"
