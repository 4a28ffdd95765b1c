"""Regular expressions that may take very long: a repeat of what is repeated itself.

Python's engine goes back over every way in which (a+)+ can match, and a text of forty characters that nearly matches has a million
million of them. While it looks, nothing else runs.
"""

import re

_STEP = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:[aiLmsux-]+:|P?<[^>]*>|[:=!>]|<[=!]))?|\)|[+*](?![+])|\{\d*,\}|.", re.DOTALL)


def may_run_away(pattern: str) -> bool:
    """Whether a pattern repeats without bound what is itself repeated without bound. A heuristic: (a+,)+ is named, too."""
    inside = [False]
    """For each open group: whether something in it is repeated."""
    closed = False
    """Whether the step before was the end of such a group."""
    for step in _STEP.findall(pattern):
        if step[0] == "(":
            inside.append(False)
            closed = False
        elif step == ")" and len(inside) > 1:
            closed = inside.pop()
            inside[-1] = inside[-1] or closed
        elif step[0] in "+*" or (step[0] == "{" and len(step) > 1):
            if closed:
                return True
            inside[-1] = True
        else:
            closed = False
    return False
