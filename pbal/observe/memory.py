"""How much memory this process has."""

import os
import resource
from contextlib import suppress


def resident_bytes() -> int:
    """Resident octets now; the peak where the system does not tell the present (no /proc)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_limit() -> int | None:
    """Octets that the process may have: what its control group allows, or the machine has; None if the system does not tell."""
    found: list[int] = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(path) as file:  # "max", or there is no such group
            found.append(int(file.read()))
    with suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)
