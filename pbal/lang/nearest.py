"""What a path of key words typed halfway, or with one word too many or too few, was most likely meant to be.

sho             SHOW                begun and not ended
show nodes      NODES               Perlbal's queries have no SHOW, some of pbal's have
counters        SHOW COUNTERS       and the other way round
"""

from collections.abc import Iterable, Sequence

from pbal.schema.types import either

MOST = 4
"""Words that are offered at a time; where there are more, none was meant."""


def halfway(word: str, key_words: Iterable[str]) -> str:
    """A hint with the key words that begin like `word`, or ''."""
    found = sorted({key_word for key_word in key_words if word and key_word.startswith(word.upper())})
    return _did_you_mean(found) if len(found) <= MOST else ""


def elsewhere(words: Sequence[str], usages: Iterable[str]) -> str:
    """A hint where the words, in upper case, are a statement but for SHOW; or ''."""
    if not words:
        return ""
    begun = [usage.split() for usage in usages]
    if any(words[:2] == usage[:2] or (words[0] == usage[0] != "SHOW") for usage in begun):
        return ""
    if words[0] == "SHOW":
        plain = [usage[0] for usage in begun if words[1:2] == usage[:1]]
        return _did_you_mean(sorted(set(plain)))
    shown = [" ".join(usage[:2]) for usage in begun if usage[:2] == ["SHOW", words[0]]]
    return _did_you_mean(sorted(set(shown)))


def _did_you_mean(found: Sequence[str]) -> str:
    if not found:
        return ""
    return f"did you mean {either([repr(each) for each in found])}?"
