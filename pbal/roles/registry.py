"""Which class answers for each role of schema/roles.py that answers HTTP. The console's handler is the server's: it speaks the language."""

from collections.abc import Callable
from typing import Final

from pbal.model.handling import RoleHandler
from pbal.model.service import Service
from pbal.roles.proxy.role import ReverseProxy
from pbal.roles.selector import Selector
from pbal.roles.tracker import UploadTracker
from pbal.roles.web.role import WebServer
from pbal.schema.roles import REVERSE_PROXY, SELECTOR, UPLOAD_TRACKER, WEB_SERVER

HANDLERS: Final[dict[str, Callable[[Service], RoleHandler]]] = {
    REVERSE_PROXY.name: ReverseProxy,
    WEB_SERVER.name: WebServer,
    SELECTOR.name: Selector,
    UPLOAD_TRACKER.name: UploadTracker,
}
