"""An object broken off anywhere can be ended."""

import json
import random

import jiter
import pytest

from llmguard.providers.torn import TornObject

MEMBER = b'"error":{"code":"budget_exceeded"}'
TEXT = json.dumps(
    {
        "": {},
        "text": 'a "quoted" \\ back\\slash and {[,:]} in it\n\t',
        "list": [1, -2.5e3, 0, True, False, None, [], {"x": [{}]}],
        "deep": [[{"a": [{"b": "c"}]}]],
        "number": 12.75,
    }
).encode()


def ended(pieces: list[bytes]) -> dict:
    torn = TornObject()
    for piece in pieces:
        torn.feed(piece)
    return json.loads(b"".join(pieces) + torn.end(MEMBER))


CHARACTERS = (
    '{"k\\u00e9é":"\\\\u00 \\\\\\\\ \\" \\u00E9 \\ud83d\\ude00\\uD83D\\uDE00\\n é漢字😀",'
    '"\u0800\ud7ff\uffff":"\U00010000\U0010ffff",'
    '"\\ud83d\\ude00":["\\u1234\\"\\\\"]}'
).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, len(CHARACTERS)])
def test_every_broken_character_and_escape_is_mended(size: int) -> None:
    """Strictly: no half of a surrogate pair is left, which other parsers than Python's own refuse."""
    for at in range(1, len(CHARACTERS)):
        torn = TornObject()
        for start in range(0, at, size):
            torn.feed(CHARACTERS[start : min(start + size, at)])
        doc = jiter.from_json(CHARACTERS[:at] + torn.end(MEMBER))
        assert doc["error"] == {"code": "budget_exceeded"}, at


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(TEXT)])
def test_every_break_is_mended(size: int) -> None:
    for at in range(1, len(TEXT)):
        pieces = [TEXT[start : min(start + size, at)] for start in range(0, at, size)]
        doc = ended(pieces)
        assert doc.pop("error") == {"code": "budget_exceeded"}, at
        whole = list(doc)[:-1]
        assert whole == list(json.loads(TEXT))[: len(whole)]


def test_random_cuts_and_breaks() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(200):
        cuts = sorted(dice.sample(range(1, len(TEXT)), dice.randint(1, 12)))
        pieces = [TEXT[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        assert ended(pieces)["error"]


@pytest.mark.parametrize("text", [b"", b"[1,2", b'"abc', b'{"a":1}', b"12"])
def test_what_is_no_open_object_is_left_alone(text: bytes) -> None:
    torn = TornObject()
    torn.feed(text)
    assert torn.end(MEMBER) == b""
