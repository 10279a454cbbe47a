"""What the message of a further run says of the runs before it, and that of an errback of the task that left it behind.

It decides how often a task may be paid for, so it is signed: nobody who merely writes to the broker can raise that.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from celery.app.task import Context

from llmguard.core.signed import Signer
from llmguard.runtime.ids import now_ms

HEADER: Final = "x-llmguard-run"
"""The header's name. A retry sends it again, by itself, with whatever else its message carried."""


class Marks(NamedTuple):
    """``aftermath``: a stopped task left this message behind, which runs although its tree is tripped. ``max_retries``:
    `retry(max_retries=…)` allowed another number than the task does. ``paid``: the run before this one has cost money.
    ``copy``: the message was put off; its value is the number of retries that the message had."""

    aftermath: bool = False
    max_retries: int | None = None
    paid: bool = False
    copy: int | None = None


NONE: Final = Marks()


def carried(request: Context) -> bool:
    """Whether a delivered message says anything of the kind; not yet whether that is genuine."""
    return HEADER in request.__dict__


def read(request: Context, signer: Signer) -> Marks:
    """What a delivered message says. What was not signed for this task says nothing."""
    text = request.__dict__.get(HEADER)
    values = signer.unseal(text, _binding(request.id), now_ms()) if isinstance(text, str) else ""
    return NONE if isinstance(values, str) else Marks(*values)


def write(headers: dict[str, Any], task_id: str, marks: Marks, signer: Signer) -> None:
    """Put marks into the headers of a message, in place of any that are there."""
    if marks == NONE:
        headers.pop(HEADER, None)
    else:
        headers[HEADER] = signer.seal(marks, _binding(task_id), now_ms())


def _binding(task_id: str) -> str:
    return f"run:{task_id}"
