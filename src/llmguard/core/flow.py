"""The drivers that run core code: one blocking, one asynchronous, and nothing else differs between the two worlds.

A handler answers one kind of effect. The asynchronous driver awaits a reply only where the handler returned something
to wait for, so an effect answered from memory costs no turn of the event loop. Errors of the
:class:`~llmguard.errors.LLMGuardError` tree are thrown into the core code at its yield, which knows what to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llmguard.core.effects import Effect, Steps
from llmguard.errors import LLMGuardError

T = TypeVar("T")
Handlers = Mapping[type[Any], Callable[[Any], Any]]


def drive(steps: Steps[T], handlers: Handlers) -> T:
    """Run ``steps`` to its end with handlers that answer at once."""
    try:
        effect = next(steps)
        while True:
            try:
                reply = handlers[type(effect)](effect)
            except LLMGuardError as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def adrive(steps: Steps[T], handlers: Handlers, waiting: frozenset[type[Effect]]) -> T:
    """Run ``steps`` to its end. Replies to the effect types in ``waiting`` are awaited where they are awaitable."""
    try:
        effect = next(steps)
        while True:
            try:
                reply = handlers[type(effect)](effect)
                if type(effect) in waiting and hasattr(reply, "__await__"):
                    reply = await reply
            except LLMGuardError as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
