"""Names out of what clients send, and values that are not framed: whatever comes, it is a key or a BadName."""

import re
from types import SimpleNamespace
from typing import Any
from xml.etree.ElementTree import ParseError, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbal.plugins.poll.formats import render
from pbal.plugins.poll.framing import split, trim, wrap
from pbal.plugins.poll.names import BadName, Source, queues_of


def asked(source: str, body: bytes = b"", query: bytes = b"", fields: dict[bytes, bytes] | None = None) -> tuple[bytes, ...]:
    exchange: Any = SimpleNamespace(request=SimpleNamespace(query=query, fields=fields or {}), read_body=lambda: body)
    match = re.match(rb"/(?P<queue>.*)", b"/a")
    assert match is not None
    return queues_of((Source(source),), exchange, match, b"poll:")


@pytest.mark.parametrize("query", [b"q=%C3%A9", b"q=\xc3\xa9", b"%71=%c3%a9", b"x=1&q=%C3%A9&q="])
def test_a_query_names_queues_outside_ascii(query: bytes) -> None:
    assert asked("query:q", query=query) == ("poll:\u00e9".encode(),)


@pytest.mark.parametrize("query", [b"q=%ff", b"q=a+b", b"q=%00", b"q=", b"", b"q", b"q=" + b"x" * 246])
def test_a_query_that_names_no_legal_queue_is_refused(query: bytes) -> None:
    with pytest.raises(BadName):
        asked("query:q", query=query)


@pytest.mark.parametrize("path", ["a[", "[", "a[0]", "p:a", "/", "//a", "a/@", "@"])
def test_an_odd_xml_path_is_refused_when_it_is_set(path: str) -> None:
    with pytest.raises(ValueError, match="expected a path such as xml:user/chat"):
        Source(f"xml:{path}")


@given(st.sampled_from(["query:q", "xml:a/b", "json:a.b", "cookie:q", "header:q"]), st.binary(max_size=80))
def test_nothing_a_client_sends_raises_anything_but_a_refusal(source: str, data: bytes) -> None:
    try:
        keys = asked(source, body=data, query=b"q=" + data, fields={b"cookie": b"q=" + data, b"q": data})
    except BadName:
        return
    assert keys and all(key.startswith(b"poll:") and len(key) <= 250 for key in keys)


@pytest.mark.parametrize(("value", "framing"), [(b"a\nb", "newline"), (b"5:hel,", "netstring"), (b"01:a,", "netstring")])
def test_what_is_not_framed_is_one_message(value: bytes, framing: str) -> None:
    assert split(value, framing) == ([value], False)


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda m: b"\n" not in m), max_size=8),
       st.sampled_from(["newline", "netstring"]), st.integers(1, 60))  # fmt: skip
def test_framing_gives_back_what_was_wrapped_and_cuts_whole_messages(messages: list[bytes], framing: str, limit: int) -> None:
    value = b"".join(wrap(message, framing) for message in messages)
    assert split(value, framing) == (messages, True)
    kept, dropped = trim(value, limit, framing)
    assert len(kept) <= limit and split(kept, framing) == (messages[dropped:], True)


@given(st.text(st.characters(min_codepoint=33, exclude_categories=["Cs", "Cc", "Zs"]), min_size=1, max_size=20))
def test_any_name_survives_the_xml_answer(name: str) -> None:
    body = render("xml", [(name.encode(), b"<m/>")], "none")[2]
    try:
        (queue,) = fromstring(body)
    except ParseError:  # XML 1.0 has no way to write some code points, such as U+FFFF
        assert re.search("[\ufffe\uffff]", name)
    else:
        assert queue.get("name") == name
