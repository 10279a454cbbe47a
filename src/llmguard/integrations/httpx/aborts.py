"""How refusals end a task that does not listen: it hears three of them, then it is aborted.

A body that swallows the abort, too, hears each further one later, so that its loop costs next to nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from llmguard.core.runaway import Execution
from llmguard.errors import TaskAborted

HEARD: Final = 3
"""Refusals that cannot be mended by waiting, of which one execution hears as replies."""

_FIRST_DELAY: Final = 0.25
_DOUBLINGS: Final = 3


def delay(execution: Execution) -> float:
    """Seconds before this execution hears its latest refusal: none at first, then 0.25 s, doubling up to 2 s.

    Longer ones would save nothing, and hold up a body that still has many calls queued and ends after them.
    """
    late = execution.refusals - HEARD - 2
    return 0.0 if late < 0 else _FIRST_DELAY * 2 ** min(late, _DOUBLINGS)


def aborted(execution: Execution, message: str) -> TaskAborted | None:
    """What to raise for the latest refusal, None while it is still told as a reply. Marks the execution as aborted, and
    the coroutine that hears of it, so that a body that goes on can be ended otherwise."""
    if execution.refusals <= HEARD or execution.policy.mode == "off":
        return None
    execution.aborted = True
    if (coroutine := _coroutine()) is not None:
        execution.told.add(coroutine)
    return TaskAborted(f"{execution.name}[{execution.task_id}] went on after {HEARD} refusals: {message}")


def _coroutine() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None
