"""What is there of a pbal in this process, for tests in which nothing may be more at the end than at the beginning."""

import gc
import os
import re
from collections import Counter
from types import ModuleType

GENERATION = re.compile(r"^pbal_loaded_(\w+?)_\d+")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def live() -> Counter[str]:
    """Objects of pbal's classes by class, over all generations of a plugin, and the generations' modules and classes."""
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if kind is ModuleType:
            found["modules of plugins"] += GENERATION.match(thing.__name__) is not None
        elif issubclass(kind, type):
            found["classes of plugins"] += GENERATION.match(str(thing.__module__)) is not None
        elif str(kind.__module__).startswith("pbal"):
            found[GENERATION.sub(r"\1", kind.__module__) + "." + kind.__qualname__] += 1
    return found
