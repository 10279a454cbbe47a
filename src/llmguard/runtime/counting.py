"""Counts prompts exactly, or about right where nobody may wait for a long one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from llmguard.core.effects import Count
from llmguard.core.ports import TokenCounter

INLINE_BYTES = 16 * 1024
"""A prompt longer than this takes longer to count than an event loop should be held up."""
_BYTES_PER_TOKEN = 3


class Counting:
    """Answers :class:`~llmguard.core.effects.Count`."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter

    def answer(self, effect: Count) -> int:
        """The count for a caller that may be kept waiting; of a long prompt, where that is forbidden, a guess."""
        if effect.inline and _is_long(effect):
            return -(-effect.call.prompt_bytes // _BYTES_PER_TOKEN)
        return self._exactly(effect)

    def promise(self, effect: Count) -> int | Awaitable[int]:
        """The same for an event loop: a long prompt is counted in another thread."""
        if effect.inline or not _is_long(effect):
            return self.answer(effect)
        return asyncio.to_thread(self._exactly, effect)

    def _exactly(self, effect: Count) -> int:
        call, dialect = effect.call, effect.dialect
        return self._counter.count(effect.model, dialect.texts(call)) + dialect.overhead_tokens(call)


def _is_long(effect: Count) -> bool:
    return effect.call.prompt_bytes > INLINE_BYTES
