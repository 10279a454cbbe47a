"""How refusals end a task that does not listen: it hears three of them, then it is aborted.

A body that swallows the abort, too, hears each further one later, so that its loop costs next to nothing.
"""

from __future__ import annotations

from asyncio import _get_running_loop, current_task
from typing import TYPE_CHECKING, Final

from llmguard.errors import TaskAborted

if TYPE_CHECKING:
    from llmguard.core.runaway import Execution

HEARD: Final = 3
"""Refusals that cannot be mended by waiting, of which one execution hears as replies."""

_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 30.0
_DOUBLINGS: Final = 7


def delay(execution: Execution) -> float:
    """Seconds before this execution hears its latest refusal: none at first, then 0.25 s, doubling up to 30 s."""
    late = execution.refusals - HEARD - 2
    return 0.0 if late < 0 else min(_FIRST_DELAY * 2 ** min(late, _DOUBLINGS), _LONGEST_DELAY)


def aborted(execution: Execution, message: str) -> TaskAborted | None:
    """What to raise for the latest refusal, None while it is still told as a reply. Call it where it is raised."""
    if execution.refusals <= HEARD:
        return None
    execution.aborted = True
    if _get_running_loop() is not None:
        execution.told.add(current_task())
    return TaskAborted(f"{execution.name}[{execution.task_id}] went on after {HEARD} refusals: {message}")
