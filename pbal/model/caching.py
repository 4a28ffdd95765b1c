"""CACHE: how long caches may keep the files of a web_server. `CACHE site 1y immutable WHEN path \\.[0-9a-f]{8}\\.js$`.

Its words stand in schema/caching.py. The first rule whose conditions hold counts, as of ROUTE; where none does, `SET cache_control`. It is
said with files alone, and with a 304 about them: not with an error, which would be kept as long, nor with a list of a directory.
"""

from pbal.model.conditions import Conditions
from pbal.schema.caching import cache_control, cache_words


class CacheRule:
    """One CACHE statement."""

    __slots__ = ("value", "when", "when_said", "words")

    def __init__(self, said: str, when: Conditions | None = None, when_said: str = "") -> None:
        """Raises: BadValue, with the place of the word."""
        self.when = when
        self.when_said = when_said
        self.words = cache_words(said)
        """As it has to be written."""
        self.value = cache_control(self.words)
        """Of Cache-Control; b"": none is said."""
