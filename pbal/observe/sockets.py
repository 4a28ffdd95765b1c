"""What a socket says of itself, for `socks` and `states`."""

from dataclasses import dataclass

Kind = tuple[str, str, str]
"""Class, state and service of a socket: what is counted, without a line made for each of thousands."""


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """One open socket: descriptor, age in seconds, class and state by Perlbal's names, its line, its service."""

    fd: int
    age: int
    class_name: str
    state: str
    text: str
    service: str
