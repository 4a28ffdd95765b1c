"""The line that is typed: on prompt_toolkit, with history and completion; without it, as the terminal gives it.

prompt_toolkit is an extra (`pip install pbal[console]`) and is imported here and nowhere else, when somebody sits at a terminal.
Completion is asked of the server on Tab, in a thread, so that a slow answer never holds up a key.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from pbal.terminal.history import History, is_kept
from pbal.terminal.wire import Console

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

PROMPT: Final = "pbal> "
COMPLETION_SECONDS: Final = 1.0
LOCAL: Final = {
    "watch": "Ask the same again and again: watch COMMAND [SECONDS]",
    "top": "A live view of requests, polls, nodes and errors: top [SECONDS]",
    "login": "Say who you are: login USER, and the password when asked",
}
"""Statements of the client itself."""


class Reader(Protocol):
    """Where lines come from."""

    def read(self) -> str:
        """The next line. Raises: EOFError, KeyboardInterrupt."""


class PlainReader:
    """A line as the terminal gives it."""

    def read(self) -> str:
        """See Reader."""
        return input(PROMPT)


def proposals(console: Console, text: str) -> Iterator[tuple[str, int, str]]:
    """What could stand where a line stops: text, how many characters before the cursor it replaces, help."""
    head = ""
    words = text.split()
    if words[:1] == ["watch"] and text.startswith("watch "):
        head, text = text[:6], text[6:]
    elif len(words) <= 1 and text == text.lstrip():
        yield from ((name, len(text), what) for name, what in LOCAL.items() if name.startswith(text) and not text.endswith(" "))
    found = console.completions(text, COMPLETION_SECONDS)
    if found is None:
        return
    said, candidates = found["column"], found["candidates"]
    assert isinstance(said, int) and isinstance(candidates, list)
    replaced = len(text) - (said - 1)
    lower = head + text == (head + text).lower()
    for each in candidates:
        word = str(each["text"])
        yield word.lower() if each["kind"] == "word" and lower else word, replaced, str(each["help"])


def prompting(console: Console, history: History, **more: Any) -> Reader | None:
    """A reader on prompt_toolkit; None where it is not installed. `more`: its input and output, for tests."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import History as Kept
    except ImportError:
        return None

    class Proposing(Completer):
        def get_completions(self, document: "Document", complete_event: "CompleteEvent") -> "Iterable[Completion]":
            for text, replaced, what in proposals(console, document.text_before_cursor):
                yield Completion(text, start_position=-replaced, display_meta=what)

    class InFile(Kept):
        def load_history_strings(self) -> Iterable[str]:
            return reversed(history.load())

        def store_string(self, string: str) -> None:
            history.add(string)

        def append_string(self, string: str) -> None:
            if is_kept(string):
                super().append_string(string)

    session: PromptSession[str] = PromptSession(
        PROMPT, completer=Proposing(), complete_while_typing=False, complete_in_thread=True, history=InFile(),
        auto_suggest=AutoSuggestFromHistory(), enable_open_in_editor=False, **more,
    )  # fmt: skip
    return _Prompting(session.prompt)


class _Prompting:
    """A line edited on prompt_toolkit."""

    def __init__(self, prompt: Callable[[], str]) -> None:
        self._prompt = prompt

    def read(self) -> str:
        """See Reader."""
        return self._prompt()
