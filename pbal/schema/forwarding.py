"""Of a reverse_proxy: what nodes are told of the client, and where requests go that the pool has no good answer to."""

from dataclasses import dataclass

from pbal.schema import types
from pbal.schema.kinds import BadValue
from pbal.schema.tunables import Tunable
from pbal.schema.types import Type

_EXPECTED = "statuses and failure, such as 404 5xx failure"


@dataclass(frozen=True, slots=True)
class Answers:
    """Kinds of answers of a pool: statuses, classes of them (5 for 5xx), and that there was none."""

    statuses: frozenset[int]
    classes: frozenset[int]
    failure: bool

    def has(self, status: int) -> bool:
        """Whether an answer with this status is one of them."""
        return status in self.statuses or status // 100 in self.classes


def _read(text: str) -> Answers:
    statuses: set[int] = set()
    classes: set[int] = set()
    failure = False
    place = 0
    for word in types.words(text):
        place = text.index(word, place)
        said = word.lower()
        if said == "failure":
            failure = True
        elif said in ("4xx", "5xx"):
            classes.add(int(said[0]))
        elif len(said) == 3 and said.isascii() and said.isdecimal() and said[0] in "45":
            statuses.add(int(said))
        else:
            message = f"expected {_EXPECTED}, found {word!r}: statuses are 400 to 599, 4xx and 5xx"
            raise BadValue(message, expected=_EXPECTED, span=(place, place + len(word)))
    if not (statuses or classes or failure):
        raise BadValue(f"expected {_EXPECTED}, found {text!r}", expected=_EXPECTED)
    return Answers(frozenset(statuses), frozenset(classes), failure)


def _write(value: Answers) -> str:
    words = [str(status) for status in sorted(value.statuses)] + [f"{each}xx" for each in sorted(value.classes)]
    return " ".join([*words, *(["failure"] if value.failure else [])])


ANSWERS: Type[Answers] = Type("answers", _read, _write, choices=("404", "4xx", "5xx", "failure"))

_PERLBAL = "Perlbal service parameters"

FORWARDING: tuple[Tunable, ...] = (
    Tunable(
        "blind_proxy",
        types.BOOL,
        default="off",
        summary="Send on X-Forwarded-For as a trusted peer sent it, and add no field about the client. Other peers' fields are replaced"
        " as ever.",
        source=_PERLBAL,
    ),
    Tunable(
        "send_backend_port",
        types.BOOL,
        default="off",
        summary="Tell nodes in X-Forwarded-Port the port that the client connected to.",
        source="differs: in the core; what a trusted peer said stands",
    ),
    Tunable(
        "send_backend_host",
        types.BOOL,
        default="off",
        summary="Tell nodes in X-Forwarded-Host the host that the client asked for. Host says so already, unless a HEADER rule of the"
        " service changes it.",
        source="pbal",
    ),
    Tunable(
        "forwarded",
        types.BOOL,
        default="off",
        summary="Send nodes Forwarded (RFC 7239) beside X-Forwarded-For. What a trusted peer sent is appended to, and pbal takes the"
        " client's address from it if the peer sends no X-Forwarded-For.",
        source="pbal",
    ),
    Tunable(
        "fallback_pool",
        types.name_of("pool"),
        summary="Pool that gets a request once more after an answer that `fallback_on` names. See RULES.",
        source="pbal",
    ),
    Tunable(
        "fallback_on",
        ANSWERS,
        default="failure",
        summary="After what a request goes to fallback_pool: statuses, 4xx, 5xx, and failure, which is that no node gave a usable answer.",
        source="pbal",
    ),
)
