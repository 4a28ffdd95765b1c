"""Tunables of consoles: who may use them. And the rule about them all: who listens to the world asks for a password, or says so.

A console can do everything to a pbal. So the address, the password and `open` are looked at together, at ENABLE and whenever one of them
is SET: `exposed` tells why they may not stand beside each other, `risks` what of an allowed choice deserves a line in the log.
"""

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pbal.schema import types
from pbal.schema.passwords import PASSWORDS
from pbal.schema.tunables import Applies, Tunable

MANAGEMENT: tuple[Tunable, ...] = (
    Tunable(
        "password_file",
        PASSWORDS,
        summary="Users and their passwords. Who is in it has to LOGIN; a browser asks for both. `pbal password USER` prints a line of it.",
        source="pbal",
    ),
    Tunable(
        "readonly",
        types.BOOL,
        default="off",
        summary="Refuse every statement that changes something. Nobody can SET it off on the console itself.",
        source="pbal",
    ),
    Tunable(
        "open",
        types.BOOL,
        default="off",
        summary="Let the console listen to other machines without a password_file. Whoever reaches it controls pbal.",
        source="pbal",
    ),
    Tunable(
        "hosts",
        types.WORDS,
        default="",
        summary="Names that a browser may call the console by, beside localhost and addresses. Others are answered 421.",
        applies=Applies.NOW,
        source="pbal",
    ),
)


def is_local(listen: types.Endpoint | None) -> bool:
    """Whether only this machine reaches an address. A name but localhost may be any machine's."""
    if listen is None or listen.path or listen.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(listen.host).is_loopback
    except ValueError:
        return False


def exposed(values: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """Why a console must not listen so; '' if it may. `server`: the tunables of SERVER."""
    if is_local(values["listen"]) or values["password_file"] is not None or values["open"] or _as_perlbal(server):
        return ""
    return (
        f"a console on {values['listen']} is open to other machines: SET listen = 127.0.0.1:{values['listen'].port}, "
        "or SET password_file, or SET open = on"
    )


def _as_perlbal(server: Mapping[str, Any]) -> bool:
    return server.get("compatible") == "perlbal"


def _open_to_others(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:  # who may not even look at it has to be told by whoever reads it
        return False


def risks(values: Mapping[str, Any]) -> Iterator[str]:
    """What the log has to say of a console that may listen so."""
    path = values["password_file"]
    if path is not None and _open_to_others(path):
        yield f"has a password_file, {path}, that every user of this machine can read or write: chmod o= would mend it"
    if is_local(values["listen"]):
        return
    if values["password_file"] is None:
        may = "sees all that it tells" if values["readonly"] else "controls this pbal"
        yield f"listens on {values['listen']} without a password: whoever reaches it {may}"
    elif not values["enable_ssl"]:
        yield f"asks for passwords on {values['listen']} without TLS: others on the way can read them (SET enable_ssl)"
