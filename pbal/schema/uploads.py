"""Of a reverse_proxy: request bodies, held, spooled, followed. Of every service that answers HTTP: what a body may be."""

import os
from collections.abc import Mapping
from typing import Any

from pbal.schema import types
from pbal.schema.tunables import Applies, Tunable

_PERLBAL = "Perlbal service parameters"


def unwritable(values: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """Why a service with these values could not spool: its directory may have gone since it was named. '' if it could."""
    path = values["buffer_uploads_path"]
    if path is None or (os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)):
        return ""
    return f"{path} is not a directory that pbal can write to (buffer_uploads_path)"


def not_datagrams(values: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """Why a service with these values cannot listen to datagrams; '' if it can."""
    if values["listen"] is not None and values["listen"].path:
        return "it listens to UDP, and an address such as 127.0.0.1:7000 is wanted, no Unix socket"
    return "it listens to UDP, where there is no TLS: SET enable_ssl = off" if values["enable_ssl"] else ""


UPLOADS: tuple[Tunable, ...] = (
    Tunable(
        "buffer_backend_connect",
        types.SIZE,
        default="100k",
        unit="bytes",
        summary="pbal holds so much of a request body in memory before it asks for a connection to a node. A body that ends before goes"
        " out in one piece, and can be sent again to another node. 0: a node is asked at once, and gets the body as it comes, as it does"
        " when the client expects 100 Continue.",
        source="differs: also without buffer_uploads more of the body waits when the node takes no more; 100 Continue comes from the node",
    ),
    Tunable(
        "buffer_uploads",
        types.BOOL,
        default="off",
        summary="Spool large and slow request bodies, and chunked ones that are longer than buffer_backend_connect: a node is asked when"
        " all of the body is on disk. The file has no name and mode 0600.",
        source="differs: a chunked body that stays in memory is not spooled; if it is off, chunked bodies go on chunked",
    ),
    Tunable(
        "buffer_uploads_path",
        types.SPOOL,
        summary="Directory for spooled request bodies. Default: where the system has temporary files (TMPDIR, else /tmp).",
        source="differs: pbal must be able to write there; where it is not said, Perlbal takes /",
    ),
    Tunable(
        "buffer_upload_threshold_size",
        types.SIZE,
        default="250k",
        unit="bytes",
        summary="With buffer_uploads, spool a body whose Content-Length is this or more. 0: never for its size.",
        source=_PERLBAL,
    ),
    Tunable(
        "buffer_upload_threshold_rate",
        types.SIZE,
        default="0",
        unit="bytes per second",
        summary="With buffer_uploads, spool a body that came at less than so many bytes a second when buffer_backend_connect is"
        " reached. 0: never for its rate.",
        source=_PERLBAL,
    ),
    Tunable(
        "buffer_upload_threshold_time",
        types.DURATION,
        default="5s",
        unit="seconds",
        summary="With buffer_uploads, spool a body whose rest would take longer than this at the rate at which it came until"
        " buffer_backend_connect was reached. 0: never for its time.",
        source=_PERLBAL,
    ),
    Tunable(
        "upload_status_listeners",
        types.RECEIVERS,
        default="",
        summary="Addresses (UDP) that are told once a second how far each upload has come whose target has client_up_sess=SESSION."
        " A service of the role upload_tracker can listen there. pbal itself then answers GET /__upload_status?client_up_sess=SESSION.",
        source="differs: IPv6 works too; the answer is JSON, with quotes around the names; the end of an upload is told as well",
    ),
)
"""Of a reverse_proxy."""

BODIES: tuple[Tunable, ...] = (
    Tunable(
        "max_chunked_request_size",
        types.SIZE,
        default="200m",
        unit="bytes",
        summary="Longest request body that is chunked. A longer one is answered 413. max_body holds as well. 0: no limit.",
        source="differs: 413, and not a closed connection; it holds on every service, whether the body is spooled or not",
    ),
    Tunable(
        "min_body_rate",
        types.SIZE,
        default="240",
        perlbal="0",
        unit="bytes per second",
        summary="A request body has to come at so many bytes a second, on average since its first byte, when min_body_grace has passed;"
        " then 408. The time in which pbal itself does not read does not count. 0: no limit.",
        source="pbal (Kestrel: 240 after 5 s; Apache httpd: 500 after 20 s; nginx and HAProxy: none)",
    ),
    Tunable(
        "min_body_grace",
        types.DURATION,
        default="20s",
        unit="seconds",
        summary="Time that is added to what a request body may take by min_body_rate.",
        source="pbal",
    ),
    Tunable(
        "accept_chunked_http10",
        types.BOOL,
        default="off",
        summary="Take a chunked body from a client of HTTP/1.0, and close the connection after the answer. off: such a request is answered"
        " 400, since a proxy of HTTP/1.0 in between would not have understood it.",
        source="pbal (RFC 9112 §6.1)",
        applies=Applies.NEXT_CONNECTION,
    ),
)
"""Of every service that answers HTTP."""
