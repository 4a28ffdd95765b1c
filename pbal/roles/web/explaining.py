"""What a web_server would answer to a request that nobody sent, told to the operator (console: explain)."""

from collections.abc import Iterator

from pbal.http1.paths import MOST_MEMBERS, members
from pbal.model.exchange import Exchange
from pbal.model.explaining import Step
from pbal.model.rules import shown_when
from pbal.observe.access import quoted_text
from pbal.roles.files.finding import IsDirectory, NoIndex, NotServed, decoded, find
from pbal.roles.files.writing import NotWritten, look, refusal
from pbal.roles.web.role import WebServer, seek
from pbal.roles.web.writing import required, target_of


def explained(role: WebServer, exchange: Exchange) -> Iterator[Step]:
    """The steps of a request that no plugin took."""
    method = exchange.method
    names = members(exchange.request.query) if role.joins and exchange.path.endswith(b"/") else []
    if method in (b"GET", b"HEAD") and names:
        other = [name for name in names[:MOST_MEMBERS] if not role.is_judged(exchange, exchange.path + name)]
        if len(names) > MOST_MEMBERS:
            yield Step("answer", role.name, f"403: more than {MOST_MEMBERS} files (enable_concatenate_get)")
        elif other:
            name = quoted_text(other[0]).decode("ascii")
            yield Step("answer", role.name, f"403: a rule by path finds something else in the path of {name}: it is to be asked for alone")
        else:
            yield Step("file", role.name, f"{len(names)} files as one (enable_concatenate_get), or 404 if one is missing")
    elif method in (b"GET", b"HEAD"):
        file = _file(role, exchange)
        if file.startswith("200") and not file.endswith("(dirindexing)"):
            for rule in role.service.rules.caching:
                if rule.when is None or rule.when.hold(exchange):
                    when = "" if rule.when is None else f" WHEN {shown_when(rule.when, rule.when_said)}"
                    yield Step("rule", role.name, f"CACHE {rule.words}{when}")
                    break
        yield Step("file", role.name, file)
    elif method == b"OPTIONS":
        yield Step("answer", role.name, f"204: Allow: {role.allow.decode()}")
    elif method in (b"PUT", b"DELETE") and method in role.allow.split(b", "):
        yield Step("file", role.name, _written(role, exchange))
    else:
        yield Step("answer", role.name, f"405: only {role.allow.decode()} here")


def _written(role: WebServer, exchange: Exchange) -> str:
    """What a PUT or DELETE would do."""
    path = quoted_text(exchange.path).decode("ascii")
    try:
        if exchange.method == b"PUT":
            required(role.service, exchange)
        target = target_of(role.service, role.rules, exchange)
        there, missing = look(target, exchange.method)
    except (NotWritten, OSError) as error:
        why = refusal(error)
        return f"{why.status}: {path}: {why.why.rstrip('.')}"
    docroot = role.service.values["docroot"]
    if exchange.method == b"DELETE":
        return f"204: {path} in {docroot} is removed"
    if there is not None:
        return f"204: {path} in {docroot} is replaced, {there} bytes today"
    folders = f", and the folders {quoted_text(b'/'.join(missing)).decode('ascii')}" if missing else ""
    return f"201: {path} in {docroot} is made{folders}"


def _file(role: WebServer, exchange: Exchange) -> str:
    docroot, rules = role.service.values["docroot"], role.rules
    if rules is None:
        return "404: no docroot"
    path = quoted_text(exchange.path).decode("ascii")
    try:
        neighbours = role.neighbours
        wanted = () if neighbours is None else neighbours.wanted(exchange.request.fields.get(b"accept-encoding"))
        found = seek(rules, decoded(exchange.path, rules), role.service.values["index_files"], neighbours, wanted, find)
    except NoIndex:
        listed = role.service.values["dirindexing"]
        return f"200: a list of {path} in {docroot} (dirindexing)" if listed else f"403: {path} in {docroot} has none of the index_files"
    except NotServed as refusal:
        because = f", by {refusal.because} = {role.service.shown(refusal.because)}" if refusal.because else ""
        return f"{refusal.status}: {path} in {docroot}{because}"
    except IsDirectory:
        return f"301: {path} is a folder, to {path}/"
    found.release()
    kind = role.service.world.media.kind_of(found.name.rpartition(b"/")[2]).decode()
    coded = f", {found.coding.decode()} (precompressed)" if found.coding else ""
    stale = f"; its {found.stale.decode()} is older, and passed over" if found.stale else ""
    return f"200: {path} in {docroot}, {found.size} bytes, {kind}{coded}{stale}"
