"""A third driver for core code: it plays a script, so that every yield can be answered, delayed or broken at will."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llmguard.core.effects import Effect, Steps
from llmguard.errors import LLMGuardError

T = TypeVar("T")


class Script:
    """Answers effects by type and keeps all of them in order. A reply that is an error is thrown into the code."""

    def __init__(self, **replies: Any) -> None:
        self.replies: dict[str, Any] = replies
        self.seen: list[Effect] = []

    def play(self, steps: Steps[T]) -> T:
        """Run ``steps`` to its end."""
        try:
            effect = next(steps)
            while True:
                self.seen.append(effect)
                reply = self._reply(effect)
                effect = steps.throw(reply) if isinstance(reply, LLMGuardError) else steps.send(reply)
        except StopIteration as stop:
            return stop.value

    def _reply(self, effect: Effect) -> Any:
        reply = self.replies.get(type(effect).__name__)
        if isinstance(reply, list):
            reply = reply.pop(0)
        return reply(effect) if isinstance(reply, Callable) else reply  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """The kinds of effects seen, in order."""
        return [type(effect).__name__ for effect in self.seen]
