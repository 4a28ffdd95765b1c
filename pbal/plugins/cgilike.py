"""cgilike: a function in Python answers the requests of a service.

    LOAD cgilike
    CREATE SERVICE hello
      SET role    = web_server
      SET listen  = 127.0.0.1:8080
      SET plugins = cgilike
      PERLHANDLER = hello::handler
    ENABLE hello

The statements have the names that Perlbal gave them, and what they name is Python, for Perl does not run here. `MyApp::handler`, or
`MyApp.handler`, is the function `handler` of the module MyApp: a file MyApp.py, or a package MyApp. `MyApp::Web::handler` is that of its
module Web, or of something named Web in it. A module is looked for in the folders of SERVER plugin_path, then in the folder of the
configuration file, then where Python looks. So a configuration stays as it is, and each MyApp.pm is written anew as MyApp.py beside it.
`apps/MyApp.py::handler` names the file itself. What a module needs of its package it imports at its top, and not in a function.

The function is called with each request, and may ask and say by these methods:

    def handler(request):
        request.uri()                 # '/a%20b/c;x?q=1', as it was sent; path() is the part before the '?'
        request.path_segments()       # ['a b', ('c', 'x')]: decoded; one with parameters is a tuple
        request.query_string()        # 'q=1'
        request.query_args()          # [('q', '1')]: decoded, in their order
        request.method()              # 'GET'
        request.request_header("Host")          # a field of the request, or None
        request.response_status_code(201)       # 200 where nothing is said
        request.response_header("X-Made", "1")  # Content-Type is text/html in UTF-8 where nothing is said
        request.print("<p>Hello.</p>")          # str, which is sent in UTF-8, or bytes
        return request.HANDLED

It returns one of these:

- HANDLED: or 0, or None. What it printed is the answer.
- DECLINED: or -2. The request goes on as if the plugin were not there. The function must have printed nothing.
- POSTPONE_RESPONSE: or -1. The function has seen to it that end_response() is called later, within taken_timeout.
- A status from 300 to 599: the answer is pbal's page for that status.

It runs in the loop, where everybody waits for it, so it has to be quick. One that is `async def` may wait: it is run as a task, and
cannot decline. If the function has an attribute wants_body that is true, it is called when the whole body is there, and
request.body() is the body. An answer is sent as a whole, and has 16 MB at most. A function that fails is answered 500, and the log
has file and line.

PERLHANDLER said again at the console imports the module anew, in a thread. So does RELOAD CONFIG where the file names another function;
the same one stays as it is. RELOAD of the plugin keeps it, too.

Source: Perlbal's Cgilike. differs: handlers are Python; the answer goes out when it is complete, with Content-Length; what went wrong in a
handler is told to the log, and not to the client; request.body() is new.
"""

import asyncio
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

from pbal.api import OK, CommandError, Counter, Exchange, Explanation, Kind, Plugin, Reply, Verdict, ahead, hook, quoted_word, spawn

HANDLED: Final = 0
POSTPONE_RESPONSE: Final = -1
DECLINED: Final = -2

MOST: Final = 16 << 20
"""Octets of an answer."""
IMPORT_LIMIT: Final = 30.0
"""Seconds that an import may take while pbal runs."""
CAUGHT: Final = (Exception, SystemExit)
"""What a program of somebody's may raise. A cancelled task is none of it."""
AT_IMPORT: Final = (BaseException,)
"""The same while it is imported, where nothing is cancelled."""
_NAME: Final = re.compile(r"[A-Za-z_]\w*(?:(?:::|\.)[A-Za-z_]\w*)*", re.ASCII)

Function = Callable[..., object]
T = TypeVar("T")


class Request:
    """A request, and the answer that is made of it. The names of its methods are Perlbal's."""

    __slots__ = ("_body", "_exchange", "_fields", "_size", "_status", "ended", "printed")

    HANDLED = HANDLED
    POSTPONE_RESPONSE = POSTPONE_RESPONSE
    DECLINED = DECLINED

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._status = 200
        self._fields: dict[str, tuple[str, str]] = {}
        self._body: list[bytes] = []
        self._size = 0
        self.printed = False
        """Whether a part of an answer was made."""
        self.ended = False
        """Whether the answer has gone out."""

    def method(self) -> str:
        """The method."""
        return self._exchange.method.decode("latin-1")

    def uri(self) -> str:
        """The target, as it was sent."""
        return self._exchange.request.target.decode("latin-1")

    def path(self) -> str:
        """The part of the target before the `?`, as it was sent."""
        return self._exchange.path.decode("latin-1")

    def path_segments(self) -> list[str | tuple[str, ...]]:
        """What stands between the slashes, decoded: a text, or a tuple of text and parameters where there is a `;`."""
        found: list[str | tuple[str, ...]] = []
        for segment in self.path().removeprefix("/").split("/"):
            first, *more = (unquote(part, errors="surrogateescape") for part in segment.split(";"))
            found.append((first, *more) if more else first)
        return found

    def query_string(self) -> str:
        """What stands behind the `?`, as it was sent; '' where nothing does."""
        return self._exchange.request.query.decode("latin-1")

    def query_args(self) -> list[tuple[str, str]]:
        """Names and values of the query, decoded, in their order."""
        return parse_qsl(self.query_string(), keep_blank_values=True, errors="surrogateescape")

    def request_header(self, name: str) -> str | None:
        """A field of the request, None where there is none of the name."""
        value = self._exchange.request.fields.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def body(self) -> bytes:
        """The body, for a function whose attribute wants_body is true."""
        return self._exchange.read_body()

    def response_status_code(self, status: int | None = None) -> int:
        """The status of the answer; with one, it is that from here on."""
        if status is not None:
            self._makes()
            self._status = status
        return self._status

    def response_header(self, name: str, value: str | None = None) -> str | None:
        """A field of the answer; with a value, it has that from here on."""
        if value is not None:
            self._makes()
            self._fields[name.lower()] = name, value
        found = self._fields.get(name.lower())
        return None if found is None else found[1]

    def send_response_header(self) -> None:
        """There are status and fields, and a body follows. They go out together."""
        self._makes()

    def print(self, *parts: str | bytes) -> None:
        """More of the body. Raises: ValueError where it is longer than 16 MB."""
        self._makes()
        for part in parts:
            octets = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
            self._size += len(octets)
            if self._size > MOST:
                raise ValueError(f"an answer has {MOST} bytes at most")
            self._body.append(octets)

    def end_response(self) -> bool:
        """Send the answer; False where the client has left. Raises: RuntimeError if it has gone out already; IllegalField."""
        self._makes()
        self.ended = True
        self._fields.setdefault("content-type", ("Content-Type", "text/html; charset=utf-8"))
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._fields.values()]
        return self._exchange.respond(self._status, fields, b"".join(self._body))

    def _makes(self) -> None:
        if self.ended:
            raise RuntimeError("the answer has gone out already")
        self.printed = True


# -- modules ---------------------------------------------------------------------------------------------------------


class Imported(NamedTuple):
    """What PERLHANDLER named."""

    said: str
    """As dumpconfig says it: one that was found beside the configuration file is told with the path of its file."""
    function: Function
    wants_body: bool
    waits: bool
    """Whether it is `async def`."""


class Folders(NamedTuple):
    """Where modules are looked for."""

    own: Path
    """That of the configuration file."""
    every: list[str]
    """All, in order."""
    before: int
    """How many of them come before it."""


def _folders(session: Any) -> Folders:
    said = session.world.server.get("plugin_path")
    paths = [str(part) for part in said] if isinstance(said, tuple) else [str(said)] if said else []
    own = Path(session.interpreter.folder).absolute()
    return Folders(own, [*paths, str(own), *sys.path], len(paths))


def _split(text: str, what: str, example: str) -> tuple[Path | None, list[str]]:
    """The file that is named, if one is, and the words of the name; the first is that of the module. Raises: CommandError."""
    path, dots, rest = text.partition(".py::")
    if not dots:
        return None, _parts(text, what, example)
    return Path(path + ".py"), [Path(path).name, *_parts(rest, what, example)]


def _parts(text: str, what: str, example: str) -> list[str]:
    """The words of a name. Raises: CommandError."""
    if _NAME.fullmatch(text) is None:
        hint = "Perl does not run here: it is the name of a Python module" if text.endswith((".pm", ".pl")) else ""
        raise CommandError(f"expected {what} such as {example}, found '{text}'", hint=hint, kind=Kind.BAD_VALUE)
    return re.split(r"::|\.", text)


def _find(name: str, folders: Folders, file: Path | None = None) -> importlib.machinery.ModuleSpec:
    """The module of a name, or of a file, which is imported by nobody here. It looks at the disk. Raises: CommandError."""
    if file is not None:
        origin = folders.own / file
        package = [str(origin.parent)] if origin.name == "__init__.py" else None
        found = importlib.util.spec_from_file_location(name, origin, submodule_search_locations=package)
        assert found is not None
        return found
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(name, folders.every)
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        return spec
    perl = next((folder for folder in folders.every if (Path(folder) / f"{name}.pm").is_file()), None)
    if perl is not None:
        raise CommandError(
            f"{perl}/{name}.pm is Perl, which does not run here", hint=f"write the handler in Python, as {name}.py beside it"
        )
    hint = f"write {name}.py in a folder of SERVER plugin_path, or beside the configuration file"
    raise CommandError(f"there is no Python module '{name}'", hint=hint, kind=Kind.UNKNOWN_NAME)


def _compiled(spec: importlib.machinery.ModuleSpec) -> Any:
    """The code of a module, from its file as it is now. Raises: CommandError."""
    assert spec.origin is not None
    try:
        return compile(Path(spec.origin).read_bytes(), spec.origin, "exec")
    except SyntaxError as error:
        raise CommandError(f"{spec.origin}:{error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{spec.origin} cannot be read: {error}") from None


def _forget(module: str) -> None:
    """Take a module, and those in it, out of the table of modules: it lives as long as its function does, and no longer."""
    for name in [name for name in sys.modules if name == module or name.startswith(module + ".")]:
        del sys.modules[name]


def _import(said: str, file: Path | None, parts: list[str], folders: Folders) -> Imported:
    """Import the module of a function anew, under a name of its own. Raises: CommandError; nothing is imported then."""
    spec = _find(parts[0], folders, file)
    code = _compiled(spec)
    name = f"pbal_cgilike_{parts[0]}"
    own = importlib.util.spec_from_file_location(name, spec.origin, submodule_search_locations=spec.submodule_search_locations)
    assert own is not None and spec.origin is not None
    module = importlib.util.module_from_spec(own)
    sys.modules[name] = module
    try:
        exec(code, vars(module))  # noqa: S102 - the operator named it
        found = _member(module, parts)
    except AT_IMPORT as error:
        if isinstance(error, CommandError):
            raise
        folder = str(Path(spec.origin).parent)
        places = [f"{file}:{line}: " for file, line in _frames(error) if file.startswith(folder)]
        raise CommandError(f"{places[-1] if places else ''}{_described(error)}") from None
    finally:
        _forget(name)
    at = Path(spec.origin)
    place = at.parent.parent if at.name == "__init__.py" else at.parent
    if file is not None or (place == folders.own and folders.every.index(str(place)) == folders.before):
        said = f"{at}::{'::'.join(parts[1:])}"
    return _imported(said, found)


def _imported(said: str, function: Function) -> Imported:
    return Imported(said, function, bool(getattr(function, "wants_body", False)), inspect.iscoroutinefunction(function))


def _described(error: BaseException) -> str:
    """`Type: message`, on a line; the type alone where the exception cannot say its message."""
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
    except CAUGHT:
        return type(error).__name__


def _frames(error: BaseException) -> list[tuple[str, int]]:
    return [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]


def _member(module: ModuleType, parts: list[str]) -> Function:
    """The function that is meant. Raises: CommandError, and what an import raises."""
    found: Any = module
    for place, part in enumerate(parts[1:], 1):
        if isinstance(found, ModuleType) and hasattr(found, "__path__") and not hasattr(found, part):
            name = f"{found.__name__}.{part}"
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
        if not hasattr(found, part):
            raise CommandError(f"there is no '{part}' in {'.'.join(parts[:place])}", kind=Kind.UNKNOWN_NAME)
        found = getattr(found, part)
    if not callable(found):
        raise CommandError(f"{'.'.join(parts)} is a {type(found).__name__}, not a function", kind=Kind.BAD_VALUE)
    function: Function = found
    return function


async def _beside(session: Any, work: Callable[[], T]) -> T:
    """Do what reads files, in a thread while pbal runs. It is a daemon: an import that hangs must not keep the process.

    A statement that is a part of RELOAD CONFIG must not wait. Raises: CommandError.
    """
    if not session.live or session.world.change is not None:
        return work()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def ended(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except (CommandError, *CAUGHT) as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended, result, failure)

    threading.Thread(target=run, name="import of a handler", daemon=True).start()
    try:
        async with asyncio.timeout(IMPORT_LIMIT):
            return await done
    except TimeoutError:
        raise CommandError(f"the import did not end within {IMPORT_LIMIT:g} s") from None


@contextmanager
def _said(argument: str) -> Iterator[None]:
    """What is refused in here is about this argument of the statement."""
    try:
        yield
    except CommandError as error:
        error.arg = argument
        raise


async def perlrequire(session: Any, module: str) -> Reply:
    """Look whether there is a Python module, and whether it can be compiled. PERLHANDLER imports it; nothing is kept here.

    Source: Perlbal manual, Cgilike. differs: a module of Python.
    """
    with _said("module"):
        name, folders = _parts(module, "the name of a Python module", "MyApp")[0], _folders(session)
        await _beside(session, lambda: _compiled(_find(name, folders)))
    return OK


def _importing(session: Any, function: str) -> Callable[[], Imported]:
    """What imports the module of a function. Raises: CommandError for what is no name of one."""
    (file, parts), folders = _split(function, "module and function", "MyApp::handler"), _folders(session)
    if len(parts) < 2:
        raise CommandError(f"expected module and function such as {function}::handler, found '{function}'", kind=Kind.BAD_VALUE)
    return lambda: _import(function, file, parts, folders)


@ahead(_importing)
async def perlhandler(session: Any, function: str) -> Reply:
    """Have a function of a Python module answer the requests of the current service, as in `PERLHANDLER = MyApp::handler`.

    The module is imported anew.
    Source: Perlbal manual, Cgilike. differs: a function of Python.
    """
    service = session.service()
    instance = service.plugin("cgilike")
    if instance is None:
        raise CommandError(f"service '{service.name}' does not have the plugin cgilike: SET plugins = cgilike", kind=Kind.CONFLICT)
    with _said("function"):
        made = session.made("perlhandler", function)
        if isinstance(made, CommandError):
            raise made
        handler = made if isinstance(made, Imported) else await _beside(session, _importing(session, function))
        if handler.wants_body and service.role == "selector":
            raise CommandError("a selector reads no bodies, and the function has wants_body", kind=Kind.CONFLICT)
    instance.use(handler)
    if made is not None:  # RELOAD CONFIG says it as dumpconfig does
        session.interpreter.made["perlhandler", handler.said] = handler
    return OK


class Cgilike(Plugin):
    """The handler of one service."""

    roles = frozenset({"reverse_proxy", "web_server", "selector"})
    commands = (perlrequire, perlhandler)
    counters = (Counter("cgilike_failures", "Requests that were answered 500 because the function of a PERLHANDLER failed."),)

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._handler: Imported | None = None

    def use(self, handler: Imported | None) -> None:
        """Have it answer from here on."""
        self._handler = handler

    @hook.start_http_request
    def begin(self, exchange: Exchange) -> Verdict:
        handler = self._handler
        if handler is None:
            exchange.error(500, b"No perlhandler is configured for this service.\n")
            return Verdict.TAKEN
        return Verdict.PASS if handler.wants_body else self._call(handler, exchange)

    @hook.proxy_read_request
    def with_body(self, exchange: Exchange) -> Verdict:
        handler = self._handler
        return Verdict.PASS if handler is None or not handler.wants_body else self._call(handler, exchange)

    def wants_body(self, exchange: Exchange) -> bool:
        return self._handler is not None and self._handler.wants_body

    def _call(self, handler: Imported, exchange: Exchange) -> Verdict:
        request = Request(exchange)
        if handler.waits:
            spawn(self, self._wait(handler, request, exchange), f"handler {handler.said}")
            return Verdict.TAKEN
        try:
            returned = handler.function(request)
            if returned == DECLINED and not isinstance(returned, bool):
                if request.printed:
                    raise RuntimeError("a handler that declines must have made no part of an answer")
                return Verdict.PASS
            self._finish(returned, request, exchange)
        except CAUGHT as error:
            self._failed(handler, error, exchange)
        return Verdict.TAKEN

    async def _wait(self, handler: Imported, request: Request, exchange: Exchange) -> None:
        try:
            returned: Any = handler.function(request)
            self._finish(await returned, request, exchange)
        except CAUGHT as error:
            self._failed(handler, error, exchange)

    def _finish(self, returned: object, request: Request, exchange: Exchange) -> None:
        """Do what a handler's word means. Raises: TypeError for one that means nothing."""
        if returned is None or (returned == HANDLED and not isinstance(returned, bool)):
            if not request.ended:
                request.end_response()
        elif isinstance(returned, int) and 300 <= returned <= 599 and not request.printed:
            known = returned in HTTPStatus._value2member_map_
            exchange.error(returned, (HTTPStatus(returned).phrase if known else "Refused").encode() + b".\n")
        elif returned != POSTPONE_RESPONSE or isinstance(returned, bool):
            raise TypeError(f"a handler returned {returned!r:.60}, which is no status and none of HANDLED, DECLINED and POSTPONE_RESPONSE")

    def _failed(self, handler: Imported, error: BaseException, exchange: Exchange) -> None:
        """Tell of what a handler raised, with its place, and answer."""
        self.counts["cgilike_failures"] += 1
        places = [f"{file}:{line}" for file, line in _frames(error) if file != __file__]
        fields = {
            "event": "handler_failed", "service": self.service.name, "handler": handler.said,
            "fault": _described(error), "place": places[-1] if places else "",
        }  # fmt: skip
        text = "service %(service)s: PERLHANDLER %(handler)s failed: %(fault)s (%(place)s)"
        self.world.log_limited(f"handler {self.service.name} {fields['place']}", text, fields)
        if not exchange.answered:
            exchange.error(500, b"The handler failed.\n")

    def explain(self, exchange: Exchange) -> Explanation | None:
        if self._handler is None:
            return Explanation(["500: there is no PERLHANDLER"], takes=True)
        return Explanation([f"PERLHANDLER {self._handler.said} answers, unless it declines"])

    def carry(self) -> tuple[str, Function] | None:
        return None if self._handler is None else (self._handler.said, self._handler.function)

    def adopt(self, carried: tuple[str, Function] | None) -> None:
        self._handler = None if carried is None else _imported(*carried)

    def dumpconfig(self) -> tuple[str, ...]:
        return () if self._handler is None else (f"PERLHANDLER = {quoted_word(self._handler.said)}",)

    def drop_rule(self, statement: str) -> None:
        self.use(None)
