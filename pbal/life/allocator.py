"""What the C library does with memory that was freed.

Pieces of bodies are 256 KB long, and live for one turn of the loop. By default glibc maps each of them anew or gives the end of the heap
back to the system after each, and every page of the next one is a page fault, which was a fifth of the CPU of a response of 1 MB. So up to
KEPT octets of the heap stay, and only what is larger than MAPPED is mapped on its own, and goes back when it is freed. Source: mallopt(3).
"""

import ctypes
from typing import Final

KEPT: Final = 16 << 20
MAPPED: Final = 8 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Have freed memory used again before the system gets it back. False: this C library has other ways."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, for one
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) and mallopt(_MMAP_THRESHOLD, MAPPED))
