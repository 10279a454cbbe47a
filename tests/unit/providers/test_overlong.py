"""Of events of any size little is remembered, and enough."""

import json

import pytest

from llmguard.providers.overlong import HEAD, WINDOW, Overlong, usage_in


def test_the_first_and_the_latest_bytes_are_kept() -> None:
    text = bytes(range(256)) * 1_000
    event = Overlong(text[:100_000])
    for at in range(100_000, len(text), 7_777):
        event.note(text[at : at + 7_777])
    assert (event.head, event.window) == (text[:HEAD], text[-WINDOW:])


@pytest.mark.parametrize("before", [b"data: ", b"event: x\ndata: ", b",\r\n", b"["])
def test_its_object_can_be_ended(before: bytes) -> None:
    text = b'{"image":"' + b"QUJD" * 50_000
    event = Overlong(before + text)
    event.note(b"\\u00")
    assert json.loads(text + b"\\u00" + event.torn.end(b'"error":1'))["error"] == 1


@pytest.mark.parametrize(
    ("text", "usage"),
    [
        (b'..."usage": {"a": {"b": "}"}} , "x":1}', {"a": {"b": "}"}}),
        (b'"usage":{"a":1},"usage":{"a":2}', {"a": 2}),
        (b'"usage":{"a":1},"usage":null', {"a": 1}),
        (b'"usage":{"a":1', None),
        (b'"usages":{"a":1}', None),
        (b"", None),
    ],
)
def test_usage_is_found_in_a_piece_of_json(text: bytes, usage: dict | None) -> None:
    assert usage_in(text, b'"usage"') == usage
