"""CONFIG SAVE: steps written into the files that were read, line by line, so that comments and order stay.

Every good statement of the files is known with its place. What a step changes is changed where it was said; what it takes back is taken out
there; what it adds comes after the last line about the same object, or at the end of the main file; a new pool comes before the services.
Whether the result means what it has to is not judged here: it is read before it is written. Where it does not, as when names are exchanged,
the steps stand at the end as they are: the file makes what it made, and they make the rest.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pbal.commands.files import Record, divided
from pbal.config.diff import Kind, Step, listing
from pbal.lang.ast import Statement
from pbal.lang.lexical import comment_start, escaped
from pbal.model import conditions
from pbal.model.errors import ConfigError
from pbal.schema import kinds
from pbal.schema.said import Said

_NAMING = ("HEADER", "ROUTE", "REWRITE", "CACHE", "LIMIT")
"""Rules that name their service."""
_KEY_WORDS = frozenset({"REQUEST", "RESPONSE", "INSERT", "SET", "ADD", "REMOVE", "TO", "WHEN"})
_ABOUT = ("service_name", "object_name", "owner_name", "selector_name", "pool_name", "new_name")


Read = Mapping[Path, list[str]]
"""The lines of files, as they were read when their statements were."""


def edited(main: Path, records: list[Record], steps: list[Step], read: Read) -> dict[Path, bytes]:
    """The files that change, whole."""
    editor = _Editor(main, records, read)
    pools = _new_pools(steps)
    made = {step.object.lower() for step in steps if step.kind is Kind.SERVICE and step.said}
    for step in _in_blocks(steps):
        if step in pools:
            continue
        if step.object.lower() in made:
            editor.append(step)
        else:
            editor.apply(step)
    editor.add_pools(pools)
    return editor.texts()


def _in_blocks(steps: list[Step]) -> Iterator[Step]:
    """The steps with all that a new service needs no other for behind its CREATE."""
    blocks: dict[str, list[Step]] = {step.object: [] for step in steps if step.kind is Kind.SERVICE and step.said}
    others: list[Step] = []
    for step in steps:
        early = step.kind is Kind.SETTING and step.said and step.key != "default_service"
        (blocks[step.object] if early and step.object in blocks else others).append(step)
    for step in others:
        yield step
        if step.kind is Kind.SERVICE and step.said:
            yield from blocks[step.object]


def _new_pools(steps: list[Step]) -> list[Step]:
    """The steps that make pools and fill them."""
    found: list[Step] = []
    name = None
    for step in steps:
        if step.kind is Kind.POOL and step.said:
            name = step.object
        elif step.object != name or step.kind not in (Kind.SETTING, Kind.NODE):
            name = None
        if name is not None:
            found.append(step)
    return found


def appended(main: Path, steps: list[Step], read: Read) -> dict[Path, bytes]:
    """The main file with the steps at its end."""
    editor = _Editor(main, [], read)
    editor.add(listing(steps))
    return editor.texts()


def write(texts: Mapping[Path, bytes], read: Read) -> None:
    """Put each text in the place of its file, atomically; rights and owner stay.

    Raises: ConfigError if a file is not as it was read, and nothing is written then; or if one cannot be written, and others may be.
    """
    made: list[tuple[Path, Path]] = []
    place = Path()
    try:
        for path, text in texts.items():
            place = path.resolve()
            beside = place.with_name(f".{place.name}.{os.getpid()}.new")
            made.append((beside, place))
            found = place.stat()
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                _keep_owner(file.fileno(), found)
                os.fchmod(file.fileno(), found.st_mode & 0o7777)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path in texts:
            if divided(path.read_bytes()) != read[path]:
                raise ConfigError(f"{path} was changed meanwhile: nothing is written", kind=kinds.Kind.CONFLICT)
        for beside, place in made:
            beside.replace(place)
    except (OSError, ConfigError) as error:
        for beside, _ in made:
            beside.unlink(missing_ok=True)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"cannot write {place}: {error.strerror}", kind=kinds.Kind.SYSTEM) from None


def _keep_owner(descriptor: int, found: os.stat_result) -> None:
    """Give a file the owner and the group of the one that it replaces. Raises: OSError."""
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) == (found.st_uid, found.st_gid):
        return
    try:
        os.fchown(descriptor, found.st_uid, found.st_gid)
    except PermissionError as error:  # SERVER user gave the right up
        raise OSError(error.errno, "its owner is another user, and only root could keep that so") from None


class _Editor:
    """The lines of the files, each with what comes in its place."""

    def __init__(self, main: Path, records: list[Record], read: Read) -> None:
        self._main = main.resolve()
        self._read = read
        self._records = records
        self._files: dict[Path, list[list[str]]] = {}
        self._crlf: set[Path] = set()
        """Files whose lines end in CRLF."""
        self._touched: set[Path] = set()
        self._start: list[str] = []
        self._end: list[str] = []
        self._appended = ""
        """The object that is current at the end of what was appended."""

    def texts(self) -> dict[Path, bytes]:
        """The files that have changed."""
        if self._start:
            self._lines(self._main)[:0] = [self._start]
            self._touched.add(self._main)
        if self._end:
            lines = self._lines(self._main)
            last = lines[-1]
            ending = last == [""]  # the file ends with a line end
            lines[-1:] = [self._end, [""]] if ending else [last, self._end, [""]]
            self._touched.add(self._main)
        return {path: self._text(path) for path in self._touched}

    def _text(self, path: Path) -> bytes:
        """A file, whole. Where all of its lines ended in CRLF, all do."""
        lines = [line for each in self._files[path] for line in each]
        if path in self._crlf:
            lines = [line.removesuffix("\r") + "\r" for line in lines[:-1]] + lines[-1:]
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    def add(self, lines: Iterable[str]) -> None:
        """Write lines at the end of the main file."""
        self._end += ["", *lines]

    def add_pools(self, steps: list[Step]) -> None:
        """Write what makes new pools before the first service: those that are there may have come to use them."""
        lines: list[str] = []
        for step in steps:
            lines += ["", step.statement] if step.kind is Kind.POOL else ["  " + _of_current(step)]
        at = next((at for at, record in enumerate(self._records) if record.statement.rule == "create_service"), None)
        if at:
            before = self._records[at - 1]
            self._at(before).extend(lines)
            self._touched.add(before.path)
        elif at is None:
            self.add(lines)
        else:
            self._start += lines

    def apply(self, step: Step) -> None:
        """Write one step where it belongs."""
        found = self._last(lambda record: _says(record, step))
        if found is not None and step.kind in (Kind.SETTING, Kind.SERVER, Kind.DEFAULT) and step.said:
            value = found.statement.args["value"]
            source = found.statement.source
            self._replace(found, source[: value.column - 1] + _value(step) + source[value.end - 1 :])
        elif found is not None and not step.said:
            for record in self._records:
                if _says(record, step):
                    self._replace(record)
        elif found is not None and step.kind is Kind.STANDING:
            self._replace(found, step.statement)
        elif found is not None and step.kind is Kind.MEDIA:
            self._replace(found, step.statement + _comment(found.statement.source))
        elif found is not None and step.kind is Kind.NODE:
            source = found.statement.source
            node = found.statement.args["node"]
            options = step.statement.partition(escaped(step.key))[2]
            self._replace(found, source[: node.end - 1] + options + _comment(source))
        elif (beside := self._last(lambda record: _is_beside(record, step), self._until(step))) is not None:
            self._insert(beside, step)
        elif step.kind in (Kind.SERVER, Kind.LOAD) and step.said:
            self._prepend(step)
        else:
            self.append(step)

    def _prepend(self, step: Step) -> None:
        """Write one step before the first statement of the main file: what follows may need it."""
        first = min((record.statement.line for record in self._records if record.path == self._main), default=1)
        if first == 1:
            self._start.append(step.statement)
        else:
            self._lines(self._main)[first - 2].append(step.statement)
            self._touched.add(self._main)

    def append(self, step: Step) -> None:
        """Write one step at the end of the main file; those of an object that is made there as its block."""
        if step.kind in (Kind.SERVICE, Kind.POOL) and step.said:
            self._end += ["", step.statement]
            self._appended = step.object
            return
        inside = step.object == self._appended != "" and step.kind is not Kind.STANDING
        if step.kind is Kind.RULE and step.said and not inside:
            self._end.append(f"USE {step.object}")
            self._appended, inside = step.object, True
        self._end.append("  " + _of_current(step) if inside else step.statement)

    def _insert(self, beside: Record, step: Step) -> None:
        """Put a line after another."""
        source = beside.statement.source
        indent = source[: len(source) - len(source.lstrip(" \t"))]
        creates = beside.statement.rule.startswith(("create_", "use"))
        current = beside.current == step.object.lower()
        text = _of_current(step) if current else step.statement
        if step.kind is Kind.RULE and not current and not step.statement.upper().startswith(_NAMING):
            self.append(step)
            return
        self._at(beside).append(("  " if creates and not indent else indent) + text)
        self._touched.add(beside.path)

    def _replace(self, record: Record, *texts: str) -> None:
        lines = self._at(record)
        lines[:1] = [*texts]
        self._touched.add(record.path)

    def _at(self, record: Record) -> list[str]:
        return self._lines(record.path)[record.statement.line - 1]

    def _lines(self, path: Path) -> list[list[str]]:
        if path not in self._files:
            lines = self._read[path]
            if len(lines) > 1 and all(line.endswith("\r") for line in lines[:-1]):
                self._crlf.add(path)
            self._files[path] = [[line] for line in lines]
        return self._files[path]

    def _last(self, matches: Callable[[Record], bool], until: int | None = None) -> Record | None:
        return next((record for record in reversed(self._records[:until]) if matches(record)), None)

    def _until(self, step: Step) -> int | None:
        """Before which record a step has to stand: SERVER before any LOAD, which looks for the plugin where it says."""
        if step.kind is not Kind.SERVER:
            return None
        return next((at for at, record in enumerate(self._records) if record.statement.rule == "load"), None)


def _comment(source: str) -> str:
    """The comment of a line, with the white space before it."""
    return source[len(source[: comment_start(source)].rstrip(" \t")) :]


def _value(step: Step) -> str:
    return step.statement.partition("=")[2].strip()


def _of_current(step: Step) -> str:
    """The statement, said of the current object. Of extra.NAME, the first word would be taken for a service."""
    if "." in step.key and step.kind is Kind.SETTING:
        return step.statement
    return step.statement.replace(f"SET {step.object}.", "SET ", 1)


def _about(record: Record) -> str:
    """Which object a statement is about, in lower case."""
    args = record.statement.args
    for terminal in _ABOUT:
        if terminal in args and not (record.statement.rule in ("vhost", "vpath") and terminal == "service_name"):
            return args[terminal].text.lower()
    return record.current


def _says(record: Record, step: Step) -> bool:
    """Whether a statement says what a step changes or takes back."""
    statement, about = record.statement, step.object.lower()
    rule, args = statement.rule, statement.args
    if step.kind is Kind.SETTING:
        return rule == "set" and args["tunable"].text.lower() == step.key and _about(record) == about
    if step.kind is Kind.SERVER:
        return rule == "server_set" and args["server_tunable"].text.lower() == step.key
    if step.kind is Kind.DEFAULT:
        return rule == "default" and args["tunable"].text.lower() == step.key
    if step.kind is Kind.STANDING:
        return rule in ("enable", "disable") and _about(record) == about
    if step.kind is Kind.MEDIA:
        return rule in ("mime_set", "mime_remove") and args["ending"].text.lower().removeprefix(".") == step.key
    if step.kind is Kind.UNLOAD:
        return rule == "load" and args["plugin_name"].text.lower() == about
    if step.kind is Kind.NODE:
        return rule == "pool_add" and _about(record) == about and _same_node(args["node"].text, step.key)
    if step.said:
        return False
    if step.kind is Kind.RULE:
        return _about(record) == about and _words(_rule(statement), about) == _words(step.key, about)
    return _about(record) == about and (rule.startswith("pool_") or rule == "create_pool") == (step.kind is Kind.POOL)


def _same_node(said: str, name: str) -> bool:
    return said.lower() in (name.lower(), name.lower().removesuffix(":80"))


def _rule(statement: Statement) -> str:
    """A rule as it is printed, as far as its conditions go."""
    said = statement.args.get("conditions")
    if said is None or isinstance(said.text, Said):
        return statement.source
    return statement.source[: said.column - 1] + escaped(conditions.parse(said.text).text)


def _words(statement: str, about: str) -> list[str]:
    """A rule without its spacing, its comment and the name of its service, which may be left out; key words in upper case."""
    words = statement.partition(" #")[0].replace("=", " = ").split()
    known = (word.upper() if word.upper() in _KEY_WORDS else word for word in words[1:] if word.lower() != about)
    return [words[0].upper(), *known]


def _is_beside(record: Record, step: Step) -> bool:
    """Whether what a step adds may come after a statement."""
    rule = record.statement.rule
    if step.kind is Kind.LOAD:
        return rule == "load"
    if step.kind is Kind.SERVER:
        return rule == "server_set"
    if step.kind is Kind.MEDIA:
        return rule.startswith("mime_")
    if step.kind in (Kind.SETTING, Kind.RULE, Kind.NODE) and step.said:
        return _about(record) == step.object.lower() and rule not in ("enable", "disable")
    return False
