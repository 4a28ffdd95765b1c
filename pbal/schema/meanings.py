"""What is written of tunables, in the manual and by `help`: the meaning of each type of value, an example of one, defaults and bounds."""

from dataclasses import dataclass

from pbal.schema.tunables import Applies, Tunable


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a value of a type is, for who writes one; and a value, for tunables that have no default to show."""

    text: str
    example: str


TYPES = {
    "bool": Meaning(
        "`on` or `off`; also yes, no, true, false, enabled, disabled, 1, 0.",
        "on",
    ),
    "int": Meaning(
        "A whole number in decimal digits.",
        "64",
    ),
    "size": Meaning(
        "A number of bytes. `k`, `m` and `g` multiply by powers of 1024; `b` is a byte. `10MB` and `10 kb` are taken, too.",
        "256k",
    ),
    "duration": Meaning(
        "A time: a number with `ms`, `s`, `m`, `h` or `d`, or with the word: `30 seconds`. A number alone is in seconds. `1.5s` is one and"
        " a half seconds.",
        "30s",
    ),
    "regex": Meaning(
        "A regular expression of Python's `re`, for bytes. It distinguishes upper and lower case.",
        "^/poll/(?P<queue>[^/]+)$",
    ),
    "directories": Meaning(
        "Existing directories, separated by spaces or commas. Write `\\ ` for a space in a path. Relative paths start from the folder"
        " of the configuration file.",
        "/srv /var",
    ),
    "destinations": Meaning(
        "Where to, separated by spaces or commas: `ADDRESS:PORT`, `NETWORK:PORT`, `[IPV6]:PORT`, `[IPV6NETWORK]:PORT`, `NAME:PORT`, or"
        " `*.NAME:PORT` for every name below. Without a port it is 80; with `*` as the port every port.",
        "10.0.0.0/8:7500 *.images.example.com:80",
    ),
    "directory": Meaning(
        "An existing directory. A relative path starts from the folder of the configuration file.",
        "/srv/www",
    ),
    "path": Meaning(
        "A path. A relative path starts from the folder of the configuration file.",
        "/var/lib/pbal",
    ),
    "paths": Meaning(
        "One or more paths, separated by spaces or commas. Write `\\ ` for a space in a path. Relative paths start from the folder"
        " of the configuration file.",
        "/etc/pbal/site.pem",
    ),
    "path|*": Meaning(
        "A path, without scheme and host, or `*` for the node itself (RFC 9110 section 9.3.7).",
        "/alive",
    ),
    "path|none": Meaning(
        "A path, or `none`. A relative path starts from the folder of the configuration file.",
        "/etc/pbal/blocked",
    ),
    "tokens": Meaning("Names of header fields, separated by spaces or commas.", "Authorization Cookie"),
    "realm": Meaning("A text for people, without quotes and backslashes: browsers show it where they ask for the password.", "Staff only"),
    "address:port": Meaning("The address of a machine, not its name, and a port.", "10.0.0.255:7500"),
    "nodes": Meaning("Addresses with ports, separated by spaces or commas: `ADDRESS:PORT`.", "10.0.0.7:11211"),
    "word": Meaning("A text without spaces.", "site"),
    "cookie": Meaning("The name of a cookie. It distinguishes upper and lower case.", "session"),
    "listen": Meaning(
        "`PORT` (on every address), `ADDRESS:PORT`, `[IPV6]:PORT`, `NAME:PORT` or `unix:PATH`. With port 0 the system chooses a port."
        " A name is looked up when the service begins to listen. A relative path starts from the folder of the configuration file.",
        "127.0.0.1:8080",
    ),
    "part of a request": Meaning(
        "`uri` (path and query), `path`, `client` (the client's address), `header:NAME`, `cookie:NAME` or `query:NAME`.",
        "cookie:session",
    ),
    "pauses": Meaning("Times, separated by commas. A number alone is in seconds; `.25` is a quarter of one.", "0,.25,1"),
    "cookie's name": Meaning("`off`, or the name of a cookie.", "node"),
    "secret": Meaning("A text that nobody should see. Best write `${file:PATH}`.", "${file:/etc/pbal/key}"),
    "mode": Meaning("Permissions of a file in octal digits, such as `0660`.", "0660"),
    "group": Meaning("The name of a group of the system.", "adm"),
    "user": Meaning("The name of a user of the system.", "nobody"),
    "password file": Meaning(
        "A file of lines `USER:scrypt$...`, which `pbal password` prints. A relative path starts from the folder of the"
        " configuration file.",
        "/etc/pbal/passwords",
    ),
    "networks": Meaning(
        "Networks such as `10.0.0.0/8` or `::1`, separated by spaces or commas.",
        "10.0.0.0/8",
    ),
    "receivers": Meaning(
        "Addresses and ports, such as `10.0.0.1:7000` or `[::1]:7000`, separated by spaces or commas. A name is none, since it would have"
        " to be looked up.",
        "10.0.0.1:7000",
    ),
    "peers": Meaning(
        "Networks such as `10.0.0.0/8` or `::1`, and `unix:` for every peer on a Unix socket, separated by spaces or commas; or `off`.",
        "10.0.0.0/8",
    ),
    "words": Meaning(
        "Words, separated by spaces or commas.",
        "GET HEAD",
    ),
    "text": Meaning(
        "Text to the end of the line.",
        "some words",
    ),
    "pool": Meaning(
        "The name of a pool.",
        "app",
    ),
    "percent": Meaning("A share from `0%` to `100%`.", "50%"),
    "statuses": Meaning("Statuses and ranges of them, such as `200-399` or `200,204`.", "200-399"),
    "target": Meaning("The path of a request, with or without a query.", "/healthz"),
    "host": Meaning("The value of a Host field.", "app.example"),
    "service": Meaning(
        "The name of a service.",
        "web",
    ),
    "store": Meaning(
        "`memory`, or `memcached HOST:PORT ...`. The default port is 11211. `unix:PATH` is a memcached on a unix socket; a"
        " relative path starts from the folder of the configuration file.",
        "memcached 127.0.0.1:11211",
    ),
    "file or none": Meaning(
        "The path of an existing file, or `none`. A relative path starts from the folder of the configuration file.",
        "none",
    ),
    "path or off": Meaning(
        "A path, or `off`. A relative path starts from the folder of the configuration file.",
        "off",
    ),
    "sources": Meaning(
        "Sources of queue names, separated by spaces; see QUEUE NAMES in `pbal-poll(7)`.",
        "path",
    ),
    "regex or none": Meaning(
        "A regular expression, or `none`.",
        "none",
    ),
    "regex or off": Meaning(
        "A regular expression, or `off`.",
        "off",
    ),
    "auth": Meaning(
        "`off`, `jwt KEYFILE` or `request /URI`. A relative path starts from the folder of the configuration file.",
        "off",
    ),
    "token sources": Meaning(
        "Places of a credential, `header:NAME`, `query:NAME` or `cookie:NAME`, separated by spaces.",
        "header:Authorization",
    ),
    "codings": Meaning(
        "`off`, or one or more of `gzip`, `zstd` and `br`, separated by spaces, the preferred one first.",
        "zstd br gzip",
    ),
    "caching": Meaning(
        "A duration such as `10m`, `12h`, `30d` or `1y`, directives of Cache-Control such as `no-cache`, `private`, `immutable` or"
        " `s-maxage=1h`, or `off`.",
        "1y immutable",
    ),
    "media types": Meaning(
        "Media types such as `text/html`, or `text/*` for all of a kind, separated by spaces or commas.",
        "text/* application/json",
    ),
    "error pages": Meaning(
        "A folder with pages of errors. A relative path starts from the folder of the configuration file.",
        "/srv/errors",
    ),
    "error statuses": Meaning(
        "`none`, or statuses from 400 to 599 separated by spaces: `404`, `502-504`, or `5xx` for all of a class.",
        "404 502-504",
    ),
    "field value or off": Meaning(
        "The value of a header field, in visible ASCII characters, or `off`.",
        "default-src 'self'",
    ),
    "origins or off": Meaning(
        "Origins such as `https://chat.example`, separated by spaces; `*` for all; or `off`.",
        "https://chat.example",
    ),
}
"""By the name of the type. Types that are a choice of words explain themselves."""

EXAMPLES = {
    "plugins": "vhosts",
    "ssl_key_file": "/etc/pbal/site.key",
    "ssl_cipher_list": "HIGH:!aNULL",
    "ssl_ca_path": "/etc/ssl/certs",
    "ssl_backend_ca": "/etc/ssl/certs/ca-certificates.crt",
    "ssl_backend_name": "app.example",
    "acme_challenges": "/var/lib/acme",
    "plugin_path": "/etc/pbal/plugins",
    "poll_auth_audience": "chat",
}
"""Values of tunables that have no default, and for which the example of their type says little."""

APPLIES = {
    Applies.NOW: "",
    Applies.NEXT_CONNECTION: "A change applies to new connections.",
    Applies.NEXT_ENABLE: "A change takes effect when the service is enabled.",
    Applies.START: "It cannot be changed while pbal runs.",
}


def kind(tunable: Tunable) -> str:
    """The type of a tunable's value, or the words it may be, and its bounds."""
    name = tunable.type.name
    return (" or ".join(tunable.type.choices) if name not in TYPES and tunable.type.choices else name) + bounds(tunable)


def bounds(tunable: Tunable) -> str:
    """`, from 1k to 16m`, or nothing."""
    if tunable.minimum and tunable.maximum:
        return f", from {tunable.minimum} to {tunable.maximum}"
    if tunable.minimum:
        return f", at least {tunable.minimum}"
    return f", at most {tunable.maximum}" if tunable.maximum else ""


def default(tunable: Tunable) -> str:
    """The default between back quotes; `unset` or `empty` as words."""
    return {None: "unset", "": "empty"}.get(tunable.default, f"`{tunable.default}`")


def example(tunable: Tunable) -> str:
    """A value that the tunable takes."""
    if tunable.default:
        return tunable.default
    if tunable.type.choices:
        return tunable.type.choices[0]
    known = TYPES.get(tunable.type.name)  # a plugin's own type is not
    return EXAMPLES.get(tunable.name) or tunable.minimum or (known.example if known is not None else "VALUE")
