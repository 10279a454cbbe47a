"""An object broken off anywhere can be ended."""

import json
import random

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
