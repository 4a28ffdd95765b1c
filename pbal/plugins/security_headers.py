"""security_headers: answers tell browsers what they must not do with a page.

    LOAD security_headers
    CREATE SERVICE site
      SET role                      = web_server
      SET plugins                   = security_headers
      SET security_headers_content  = default-src 'self'; img-src *
      SET security_headers_frames   = deny
      SET security_headers_remove   = X-Powered-By X-AspNet-Version

Where nothing else is said, an answer gets X-Content-Type-Options: nosniff, X-Frame-Options: SAMEORIGIN and Referrer-Policy:
strict-origin-when-cross-origin. A field that a node set itself stays as it is: an application knows more of its page. The tunable `hsts` of
the service says Strict-Transport-Security.

It is about what nodes and files answer, whatever the status. An error page of pbal's own has no script, no frame and no link to others;
HEADER RESPONSE SET adds fields to those, too.
"""

from typing import Any

from pbal.api import WORDS, BadValue, ConfigError, Exchange, Plugin, ResponseHead, Tunable, Type, enum, hook

_REFERRERS = (
    "no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin", "same-origin", "strict-origin",
    "strict-origin-when-cross-origin", "unsafe-url", "off",
)  # fmt: skip


def _parse_value(text: str) -> bytes:
    """A field's value. Raises: BadValue."""
    if text.lower() == "off":
        return b""
    if not text.isascii() or not text.isprintable():
        raise BadValue(f"expected visible ASCII characters, found {text!r}", expected="visible ASCII characters")
    return text.encode()


VALUE: Type[bytes] = Type("field value or off", _parse_value, lambda value: value.decode() or "off", ("off",))


def _tunable(name: str, kind: Type[Any], default: str, summary: str) -> Tunable:
    return Tunable(f"security_headers_{name}", kind, default=default, summary=summary, source="pbal")


class SecurityHeaders(Plugin):
    """The fields of one service's answers."""

    roles = frozenset({"reverse_proxy", "web_server"})
    tunables = (
        _tunable("content", VALUE, "off", "Content-Security-Policy: where a page may have scripts, images and all else from."),
        _tunable("frames", enum("deny", "sameorigin", "off"), "sameorigin", "X-Frame-Options: who may show a page in a frame."),
        _tunable("referrer", enum(*_REFERRERS), "strict-origin-when-cross-origin", "Referrer-Policy: what other sites learn of a page."),
        _tunable("permissions", VALUE, "off", "Permissions-Policy: which devices and features a page may use."),
        _tunable("opener", enum("same-origin", "same-origin-allow-popups", "unsafe-none", "off"), "off",
                 "Cross-Origin-Opener-Policy: whether pages of other origins keep a handle on a page that they opened."),
        _tunable("resource", enum("same-site", "same-origin", "cross-origin", "off"), "off",
                 "Cross-Origin-Resource-Policy: which sites may use an answer in a page of theirs."),
        _tunable("remove", WORDS, "", "Fields that answers must not have, such as X-Powered-By."),
    )  # fmt: skip

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._fields: tuple[tuple[bytes, bytes, bytes], ...] = ()
        """Name in lower case, name, value."""
        self._removed: frozenset[bytes] = frozenset()

    def check(self) -> None:
        for name in self.service["security_headers_remove"]:
            if not all(letter.isalnum() or letter in "-_" for letter in name) or not name.isascii():
                raise ConfigError(f"security_headers_remove: expected names of fields such as X-Powered-By, found '{name}'", about=name)

    def open(self) -> None:
        self.changed("security_headers_")

    def changed(self, tunable: str) -> None:
        if not tunable.startswith("security_headers_"):
            return
        values = self.service
        said: list[tuple[bytes, bytes]] = [
            (b"X-Content-Type-Options", b"nosniff"),
            (b"Content-Security-Policy", values["security_headers_content"]),
            (b"Permissions-Policy", values["security_headers_permissions"]),
            (b"X-Frame-Options", values["security_headers_frames"].upper().encode()),
            (b"Referrer-Policy", values["security_headers_referrer"].encode()),
            (b"Cross-Origin-Opener-Policy", values["security_headers_opener"].encode()),
            (b"Cross-Origin-Resource-Policy", values["security_headers_resource"].encode()),
        ]
        self._fields = tuple((name.lower(), name, value) for name, value in said if value.lower() not in (b"", b"off"))
        self._removed = frozenset(name.lower().encode() for name in values["security_headers_remove"])

    @hook.modify_response_headers
    def add(self, exchange: Exchange, response: ResponseHead) -> None:
        if self._removed:
            response.headers = [(name, value) for name, value in response.headers if name.lower() not in self._removed]
        there = {name.lower() for name, _ in response.headers}
        response.headers += [(name, value) for low, name, value in self._fields if low not in there]
