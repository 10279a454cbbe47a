"""Token usage in one convention, whatever a provider calls it.

``input_tokens`` is everything the prompt cost, cache reads and writes included; ``output_tokens`` is everything
generated, hidden reasoning included. The other counts are parts of these two; ``None`` means "not reported".
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct


class Source(IntEnum):
    """Where a usage number came from. The value is the record's revision: a higher one replaces a lower one."""

    HOLD = 0
    ESTIMATED = 1
    COUNTED = 2
    PROVIDER = 3

    word: str
    """The lower-case word written to the ledger."""


for _source in Source:
    _source.word = _source.name.lower()


class Usage(Struct):
    """Tokens of one call, and the searches that the provider's own tools made and bill one by one."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    input_audio_tokens: int | None = None
    cached_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    input_video_tokens: int | None = None
    web_searches: int | None = None
    file_searches: int | None = None
