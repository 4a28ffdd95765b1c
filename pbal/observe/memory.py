"""How much memory this process has."""

import os
import resource


def resident_bytes() -> int:
    """Resident octets now; the peak where the system does not tell the present (no /proc)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
