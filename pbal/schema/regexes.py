"""Regular expressions that may take very long, and those that cannot.

Slowest is a repeat of what is repeated itself.

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


_MANY = 4
"""Times that a pattern may let something be there or not, and still be quick: each may double the ways to look at."""
_HARD = ("(?P=", "(?(", "(?=", "(?!", "(?<", "(?>")
"""What refers to a group, and what looks around."""
_GROUP_AGAIN = re.compile(r"\\[1-9]")


def quick(pattern: str) -> bool:
    """Whether a search takes no longer than in proportion to the text. False says nothing: what is hard to judge is not looked into.

    Without repeats each character is looked at a few times. With one, which is of a single step and not of a group, that is so where
    the pattern holds on to the beginning of the text: else the repeat would begin anew at each character. {2,9} is a repeat, too.
    """
    if any(hard in pattern for hard in _HARD) or _GROUP_AGAIN.search(pattern):
        return False
    steps = _STEP.findall(pattern)
    repeats = options = depth = 0
    either = False
    for before, step in zip(["", *steps], steps, strict=False):
        if step[0] in "*+?{" and (before == "^" or (before == ")" and step != "?")):
            return False
        repeats += step[0] in "*+{"
        options += step == "?" and before not in ("*", "+")
        depth += (step[0] == "(") - (step == ")")
        either = either or (step == "|" and not depth)
    return options <= _MANY and (not repeats or (repeats == 1 and pattern.startswith("^") and not either))
