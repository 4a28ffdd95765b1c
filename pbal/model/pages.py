"""What a client is shown when pbal itself refuses or fails: a page for people, JSON for programs, or a line of text.

The client chooses with Accept: who prefers HTML, as browsers do, gets a page, who prefers JSON gets that (RFC 9457), and everybody else,
with or without an Accept, gets text. The form is one of pbal's own, or a file of the service's `error_pages`, the closest by name:

    404.html    this status        4xx.html    any of its class        error.html    any

A file is looked for in the form that the client chose, so a folder with pages for people leaves programs their JSON. In a file,
{status}, {reason}, {message} and {request_id} stand for what they say, escaped as the form wants it; nothing else in braces means
anything, or a style sheet could not stand there. Files are read when the folder is SET and when the configuration is read again, never
while a request waits.
"""

import html
import json
import re
from functools import lru_cache
from typing import Final

from pbal.http1.encoder import REASONS
from pbal.schema.limits import ErrorPages

HTML, JSON, TEXT = "html", "json", "txt"
_MEDIA_TYPES: Final = {HTML: b"text/html; charset=utf-8", JSON: b"application/json", TEXT: b"text/plain; charset=utf-8"}
_PROBLEM: Final = b"application/problem+json"
_NAMED: Final = {
    b"text/html": HTML, b"application/xhtml+xml": HTML, b"application/json": JSON, _PROBLEM: JSON, b"application/*": JSON,
    b"text/plain": TEXT, b"text/*": TEXT, b"*/*": TEXT,
}  # fmt: skip
LONGEST_ACCEPT: Final = 500
"""Octets of an Accept that are looked at, and remembered."""
_VARY: Final = (b"Vary", b"Accept")
_WEIGHT: Final = re.compile(rb"[\t ]*q[\t ]*=[\t ]*([01](?:\.[0-9]{0,3})?)[\t ]*", re.IGNORECASE)
_PLACE: Final = re.compile(r"\{(status|reason|message|request_id)\}")

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{status} {reason}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto 0; padding: 0 1.5rem }}
h1 {{ font-size: 1.7rem; font-weight: 600; margin: 0 }}
p {{ margin: .7rem 0 0 }}
small {{ opacity: .65; overflow-wrap: anywhere }}
</style>
<h1>{status} {reason}</h1>
<p>{message}</p>
{id}</html>
"""


def error_page(
    pages: ErrorPages | None, status: int, text: bytes, number: bytes, accept: bytes | None
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields and the body of an error. `text` says what is wrong, in a line; `number` is the request's id, or b""."""
    form, problem = _chosen(accept[:LONGEST_ACCEPT]) if accept is not None else (TEXT, False)
    fields = [_VARY]
    if number:
        fields.append((b"X-Request-Id", number))
    template = None if pages is None else pages.of(status, form)
    if template is None:
        if form is TEXT:
            return fields, text + (b"Request id: %b\n" % number if number else b"")
        fields.append((b"Content-Type", _PROBLEM if problem else _MEDIA_TYPES[form]))
        return fields, (_page if form is HTML else _problem)(status, text.decode("utf-8", "replace").strip(), number.decode())
    fields.append((b"Content-Type", _MEDIA_TYPES[form]))
    said = {
        "status": str(status),
        "reason": _reason(status),
        "message": text.decode("utf-8", "replace").strip(),
        "request_id": number.decode(),
    }
    return fields, _PLACE.sub(lambda match: _escaped(form, said[match[1]]), template).encode()


def _reason(status: int) -> str:
    return REASONS.get(status, b"Error").decode()


def _escaped(form: str, text: str) -> str:
    if form == HTML:
        return html.escape(text)
    return json.dumps(text)[1:-1] if form == JSON else text


def _page(status: int, message: str, number: str) -> bytes:
    shown = f"<p><small>Request id: {html.escape(number)}</small></p>\n" if number else ""
    return _PAGE.format(status=status, reason=html.escape(_reason(status)), message=html.escape(message), id=shown).encode()


def _problem(status: int, message: str, number: str) -> bytes:
    said: dict[str, object] = {"status": status, "title": _reason(status), "detail": message}
    if number:
        said["request_id"] = number
    return json.dumps(said).encode() + b"\n"


@lru_cache(maxsize=256)
def _chosen(accept: bytes) -> tuple[str, bool]:
    """The form that an Accept prefers, and whether problem+json is named. Of equal weights the first named wins; ranges come last.

    Source: RFC 9110 section 12.5.1.
    """
    best, form, problem = 0.0, TEXT, False
    for element in accept.lower().split(b","):
        name, *parameters = element.split(b";")
        name = name.strip(b" \t")
        named = _NAMED.get(name)
        if named is None:
            named = JSON if name.startswith(b"application/") and name.endswith(b"+json") else None
        if named is None:
            continue
        weight = 1.0
        for parameter in parameters:
            match = _WEIGHT.fullmatch(parameter)
            if match is not None:
                weight = float(match[1])
        problem = problem or (name == _PROBLEM and weight > 0)
        if name.endswith(b"*"):
            weight -= 0.0001  # who names a type means it more than who names all
        if weight > best:
            best, form = weight, named
    return form, problem
