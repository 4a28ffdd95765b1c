"""What a socket says of itself, for `socks` and `states`. Its line has Perlbal's shape, which monitoring parses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Kind = tuple[str, str, str]
"""Class, state and service of a socket: what is counted, without a line made for each of thousands."""


def class_shown(class_name: str) -> str:
    """A class as Perlbal's console calls it: scripts look for `Perlbal::ClientProxy`, and for ours in the same place."""
    return f"Perlbal::{class_name}"


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """One open socket. `age` is in seconds; `flags` are the events it waits for: R, W, RW or none."""

    fd: int
    age: int
    class_name: str
    state: str
    service: str
    flags: str = "R"
    peer: str = ""
    """Whom it is connected to; empty for a listener."""
    before: Mapping[str, object] = field(default_factory=dict)
    """What Perlbal says before the state, in its order."""
    after: Mapping[str, object] = field(default_factory=dict)
    """What Perlbal says after the state. True stands as the name alone, `url` as the value alone."""
    said: str = ""
    """What stands there instead of all that."""

    @property
    def text(self) -> str:
        """Its line, without descriptor and age."""
        to = f" to {self.peer}" if self.peer else ""
        return f"{class_shown(self.class_name)}({self.flags}): open{to}: {self.said or '; '.join(self._parts())}"

    def _parts(self) -> Iterator[str]:
        yield from (f"{name}={value}" for name, value in self.before.items())
        yield self.state
        for name, value in self.after.items():
            yield name if value is True else str(value) if name == "url" else f"{name}={value}"

    def fields(self) -> dict[str, object]:
        """All of it by name."""
        return {
            "fd": self.fd, "age": self.age, "class": class_shown(self.class_name), "flags": self.flags, "state": self.state,
            "service": self.service, "peer": self.peer or None, **self.before, **self.after,
        }  # fmt: skip


def listening(kind: Kind, fd: int, age: int, address: str, accepting: bool) -> SocketInfo:
    """Of a socket on which a service listens, for connections or for datagrams."""
    class_name, state, service = kind
    return SocketInfo(
        fd=fd,
        age=age,
        class_name=class_name,
        state=state,
        service=service,
        flags="R" if accepting else "",
        before={"listening": address},
        said=f"listening on {address} for service '{service}'",
    )
