"""What every wire dialect has to do, as tests to inherit.

::

    class TestMyDialect(DialectSuite):
        dialect = MyDialect()
        examples = (Example("a chat", request, "/v1/chat", reply=body, usage=(12, 3)), ...)

The examples are calls as the provider really answers them, whole and streamed. From each of them the suite makes what
callers, networks and providers make of it: other cuts, torn ends, odd fields, foreign bytes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from llmguard.core.call import Call, Edits, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Dialect, Reader
from llmguard.errors import BadCall

REFUSAL: Final = Refuse("budget_exceeded", 429, "The budget is spent.", rule="suite")
_RID: Final = "01a0c451-f2a0-7aaa-9e2f-eb89414c343c"
_ODD: Final[tuple[Any, ...]] = (None, True, -1, 1.5, "", "x", [], {}, [None], {"a": 1}, [[1]])


@dataclass(frozen=True, slots=True)
class Example:
    """One call and its answer. ``endpoint`` is the route's template, ``path_model`` the model that the path carries.

    ``reply`` is the body of a reply of status 200, for a call that ``streams`` the whole stream. ``model`` is the model
    asked for, ``usage`` what the reply reports as (input, output) tokens. ``terminal`` says that a stream of this kind
    has an event that ends it.
    """

    name: str
    request: Request
    endpoint: str
    reply: bytes
    model: str
    usage: tuple[int, int]
    streams: bool = False
    terminal: bool = True
    path_model: str | None = None
    content_type: str = "application/json"

    def __str__(self) -> str:
        return self.name


class DialectSuite:
    """Inherit it in a class named `Test…` and set ``dialect`` and ``examples``, one of them at least a stream."""

    dialect: Dialect
    examples: Sequence[Example]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One run for each example, or for each stream among them."""
        for name, wanted in (("example", self.examples), ("stream", [e for e in self.examples if e.streams])):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, wanted, ids=str)

    @pytest.fixture
    def rng(self) -> random.Random:
        """Chance, repeatable: its seed is printed, and `SEED` in the environment sets it."""
        seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
        print(f"SEED={seed}")
        return random.Random(seed)

    # ------------------------------------------------------------------ requests

    def test_a_request_is_understood(self, example: Example) -> None:
        """Model, stream or not, and texts to count."""
        call = self._call(example)
        assert (call.model, call.stream, call.dialect) == (example.model, example.streams, self.dialect.name)
        assert call.prompt_bytes > 0
        assert all(isinstance(text, str) for text in self.dialect.texts(call))
        assert self.dialect.overhead_tokens(call) >= 0

    def test_what_is_not_edited_stays_byte_for_byte(self, example: Example) -> None:
        """Without edits the body is the caller's own; with one, all else in it is what it was."""
        call = self._call(example)
        assert self.dialect.rewrite(call, Edits()) == example.request.body
        if not call.generates:
            return
        edited = self.dialect.rewrite(call, Edits(max_tokens=7))
        again = self.dialect.parse(_with_body(example.request, edited), example.endpoint, example.path_model)
        assert again.max_tokens == 7
        before, after = json.loads(example.request.body), json.loads(edited)
        assert {name for name in before if name not in after} == set()

    def test_what_is_not_understood_is_a_bad_call(self, example: Example, rng: random.Random) -> None:
        """Bodies cut off, and odd values in every field: either a call or a refusal of the caller's, never an error."""
        body = example.request.body
        for _ in range(50):
            self._try(example, body[: rng.randrange(len(body))])
        document = json.loads(body)
        for name in document:
            for odd in _ODD:
                self._try(example, json.dumps(document | {name: odd}).encode())

    # ------------------------------------------------------------------ replies

    def test_the_usage_of_a_reply_is_read(self, example: Example) -> None:
        """Whole or streamed, as the provider reports it."""
        reader = self._reader(example)
        if example.streams:
            reader.feed(example.reply)
            reader.flush()
        else:
            reader.whole(200, example.content_type, example.reply)
        assert _usage(reader) == example.usage
        assert not reader.failed

    def test_a_stream_is_read_alike_however_it_is_cut(self, stream: Example, rng: random.Random) -> None:
        """Every byte passes, in its order, and the same is understood."""
        for _ in range(40):
            reader, passed = self._reader(stream), b""
            for piece in _cut(stream.reply, rng):
                passed += reader.feed(piece)
                assert reader.held() == reader.held()
            held = reader.held()
            assert reader.flush() == held
            assert passed + held == stream.reply
            assert (_usage(reader), reader.finished, reader.failed) == (stream.usage, stream.terminal, False)
            assert reader.generated > 0

    def test_the_end_of_a_stream_is_held_back(self, stream: Example) -> None:
        """SDKs stop reading there, so it goes out only when the call's record is written."""
        if not stream.terminal:
            return
        reader = self._reader(stream)
        passed = reader.feed(stream.reply)
        assert reader.finished
        assert len(passed) < len(stream.reply)

    def test_a_stream_that_is_cut_off_ends_in_whole_events(self, stream: Example, rng: random.Random) -> None:
        """Wherever the guard cuts it, the caller sees whole events, and the last words say why.

        Unless the answer was over: where no event says so (``terminal``), its finish reason does.
        """
        for _ in range(40):
            reader = self._reader(stream)
            passed = reader.feed(stream.reply[: rng.randrange(len(stream.reply))])
            if reader.finished or (not stream.terminal and reader.finish_reason is not None):
                continue
            ended = passed + reader.cut(REFUSAL, _RID)
            assert REFUSAL.message.encode() in ended
            if stream.content_type.startswith("text/event-stream"):
                assert ended.endswith((b"\n\n", b"\r\n\r\n"))

    def test_no_bytes_break_a_reader(self, example: Example, rng: random.Random) -> None:
        """Replies of other kinds, torn ones, and noise: then no usage is known, and nothing is raised."""
        for status in (200, 404, 500):
            for body in (b"", b"{", b"null", b"<html>", rng.randbytes(2_000), example.reply[: len(example.reply) // 2]):
                reader = self._reader(example)
                reader.whole(status, example.content_type, body)
                reader = self._reader(example)
                passed = reader.feed(body)
                assert passed + reader.flush() == body

    # ------------------------------------------------------------------ refusals

    def test_a_refusal_says_why(self) -> None:
        """One JSON document in the dialect's own shape, with the message and the `llmguard` object."""
        text = self.dialect.refusal(REFUSAL, _RID)
        error = json.loads(text)["error"]
        assert error["message"] == REFUSAL.message
        assert _find(error, "llmguard")["request_id"] == _RID
        assert _find(error, "llmguard")["rule"] == "suite"

    def _call(self, example: Example) -> Call:
        return self.dialect.parse(example.request, example.endpoint, example.path_model)

    def _reader(self, example: Example) -> Reader:
        return self.dialect.reader(self._call(example), asked_usage=False)

    def _try(self, example: Example, body: bytes) -> None:
        bad = self._refused(_with_body(example.request, body), example)
        assert bad is None or (400 <= bad.status < 500 and bad.message)

    def _refused(self, request: Request, example: Example) -> BadCall | None:
        try:
            self.dialect.parse(request, example.endpoint, example.path_model)
        except BadCall as bad:
            return bad
        return None


def _with_body(request: Request, body: bytes) -> Request:
    return Request(request.method, request.path, request.query, request.headers, body)


def _usage(reader: Reader) -> tuple[int, int] | None:
    usage = reader.usage
    return None if usage is None else (usage.input_tokens, usage.output_tokens)


def _cut(data: bytes, rng: random.Random) -> list[bytes]:
    """The data in pieces, some of them of one byte."""
    cuts = sorted(rng.sample(range(1, len(data)), min(rng.choice((1, 5, 40, 400)), len(data) - 1)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _find(value: Any, name: str) -> Any:
    """The first member of this name, however deep."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        if (found := _find(item, name)) is not None:
            return found
    return None
