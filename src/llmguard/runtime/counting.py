"""Counts prompts exactly, or about right where nobody may wait for a long one."""

from __future__ import annotations

from llmguard.core.effects import Count
from llmguard.core.ports import TokenCounter

INLINE_BYTES = 16 * 1024
_BYTES_PER_TOKEN = 3


class Counting:
    """Answers :class:`~llmguard.core.effects.Count`."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter

    def answer(self, effect: Count) -> int:
        """The count for a caller that may be kept waiting; of a long prompt, where that is forbidden, a guess."""
        if effect.inline and is_long(effect):
            return -(-effect.call.prompt_bytes // _BYTES_PER_TOKEN)
        return self.exactly(effect)

    def exactly(self, effect: Count) -> int:
        """The exact count; a long prompt takes its time."""
        call, dialect = effect.call, effect.dialect
        return self._counter.count(effect.model, dialect.texts(call)) + dialect.overhead_tokens(call)


def is_long(effect: Count) -> bool:
    """Whether counting takes so long that an event loop should not do it."""
    return effect.call.prompt_bytes > INLINE_BYTES
