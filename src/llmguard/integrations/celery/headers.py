"""The signed header of a task's message: read when the task is run, written when it is published."""

from __future__ import annotations

from celery.app.task import Context

from llmguard.core.signed import FORGED, HEADER, Signed, Signer
from llmguard.core.signed import task as bound_to
from llmguard.runtime.ids import now_ms

__all__ = ["HEADER", "carried", "read", "sign"]


def carried(request: Context) -> object:
    """The header that a delivered task came with, unread; None where there is none.

    Celery keeps a message's own headers as attributes of the request. Tracers that add their own put a copy of older
    ones into ``request.headers``, which only counts where the message has none (protocol 1, eager tasks).
    """
    text = request.__dict__.get(HEADER)
    if text is None and isinstance(request.headers, dict):
        text = request.headers.get(HEADER)
    return text


def read(text: object, task_id: str, signer: Signer) -> Signed | str:
    """What a header says that came with the message of this task, or a word for why it is not to be believed."""
    return signer.read(text, bound_to(task_id), now_ms()) if isinstance(text, str) else FORGED


def sign(signed: Signed, task_id: str, signer: Signer) -> str:
    """The header for the message of this task."""
    return signer.sign(signed, bound_to(task_id), now_ms())
