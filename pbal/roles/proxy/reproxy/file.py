"""X-REPROXY-FILE: a file of this machine as the answer, if it is in a folder of reproxy_root.

A name outside, a link that leads there and a name that does not begin with a slash are refused: 502. What is missing, is a folder or a
device, or has another size than the node said, is 404. How files are found and sent stands in roles/files. The client gets what the node
said of the file. Where that was nothing, pbal says its type by the ending of its name, and its validators.
"""

import os
from functools import partial
from typing import Final

from pbal.http1.conditional import etag_for
from pbal.http1.encoder import http_date
from pbal.model.exchange import SERVED, Exchange
from pbal.model.served import Lookup
from pbal.observe.access import BROKE, NODE_BROKE, quoted_text
from pbal.roles import chain
from pbal.roles.files.finding import NotKnown, NotServed, OpenFile, Rules, find_in, known_in
from pbal.roles.files.sending import Finding, Validators, send_file
from pbal.roles.proxy.reproxy.order import NOTHING, REFUSED, Order, fail

_UNREADABLE: Final = b"The file cannot be read.\n"


def reproxy_file(order: Order, path: bytes) -> None:
    """Answer with the file at `path`."""
    exchange = order.exchange
    hooks = exchange.service.hooks.start_file_reproxy
    if hooks:
        lookup = Lookup(path)
        if chain.run(hooks, exchange, lookup):
            return
        path = lookup.path
    exchange.enter(SERVED)
    service = exchange.service  # what a node names may begin with a dot
    folders = tuple(Rules(service.world.files, os.fsencode(folder), dot_files=True) for folder in service.values["reproxy_root"])
    if not path.startswith(b"/") or not folders:
        _found(order, path, exchange, None, NotServed(404, outside=True))
        return
    try:
        file = _known(folders, path)
    except NotKnown:
        Finding(exchange, partial(find_in, folders, path), partial(_found, order, path))
    except NotServed as refusal:
        _found(order, path, exchange, None, refusal)
    else:
        _found(order, path, exchange, file, None)


def _known(folders: tuple[Rules, ...], path: bytes) -> OpenFile | None:
    """The file, if it is known without waiting. Raises: NotKnown, NotServed."""
    for rules in folders:
        start = rules.folder.rstrip(b"/") + b"/"
        if path.startswith(start):
            return known_in(rules, path[len(start) - 1 :])
    raise NotKnown


def _found(order: Order, path: bytes, exchange: Exchange, file: OpenFile | None, error: BaseException | None) -> None:
    """The file was opened, or there is none."""
    name = quoted_text(path).decode("ascii")
    if file is not None:
        if order.fits(file.size):
            _send(order, file)
            return
        file.release()
        why = f"X-REPROXY-FILE: {name} has {file.size} bytes, and not as many as X-REPROXY-EXPECTED-SIZE says"
        fail(exchange, 404, NOTHING, NODE_BROKE, "reproxy_missing", why)
    elif isinstance(error, NotServed) and error.outside:
        exchange.service.world.counters.counts["reproxy_refused"] += 1
        why = f"X-REPROXY-FILE: {name} is not in a folder of reproxy_root"
        fail(exchange, 502, REFUSED, NODE_BROKE, "reproxy_refused", why)
    elif error is None or (isinstance(error, NotServed) and error.status == 404):
        kind = "is a folder" if error is None else "is not there, or is no file"
        fail(exchange, 404, NOTHING, NODE_BROKE, "reproxy_missing", f"X-REPROXY-FILE: {name} {kind}")
    else:
        status = 503 if isinstance(error, NotServed) and error.status == 503 else 500
        fail(exchange, status, _UNREADABLE, BROKE, "reproxy_failed", f"X-REPROXY-FILE: {name} cannot be read")


def _send(order: Order, file: OpenFile) -> None:
    exchange = order.exchange
    exchange.service.world.counters.counts["reproxy_files"] += 1
    fields, of = order.fields, order.validators
    if order.status == 200 and not order.is_validated:
        of = Validators(etag_for(file.mtime_ns, file.size), file.mtime_ns // 10**9)
        shown = min(max(file.mtime_ns // 10**9, 0), exchange.service.world.clock.epoch())
        fields = [*fields, (b"ETag", of.etag), (b"Last-Modified", http_date(shown))]
    if not any(field[0].lower() == b"content-type" for field in fields):
        fields = [*fields, (b"Content-Type", exchange.service.world.media.kind_of(file.name.rpartition(b"/")[2]))]
    send_file(exchange, file, fields, of, order.status, order.reason)
