"""Errbacks that Celery calls like functions, in whichever process learns of the error.

After a hard time limit or a lost worker that is its main process, where nothing says whose task has failed but the
message itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.backends.base import Backend

from llmguard.core.signed import Signed
from llmguard.integrations.celery.headers import HEADER, carried, read

if TYPE_CHECKING:
    from llmguard.integrations.celery.installation import Installation

_failed: ContextVar[Context | None] = ContextVar("llmguard_failed", default=None)
_call_errbacks = Backend._call_task_errbacks


def follow() -> None:
    """From now on :func:`of_failed` knows the task whose errbacks are being called."""
    Backend._call_task_errbacks = _following


def of_failed(installation: Installation) -> Signed | None:
    """What the failed task's header says whose errbacks are being called; a chord's body that never ran has none, but
    its errbacks carry a copy."""
    request = _failed.get()
    if request is None:
        return None
    for text in (carried(request), *map(_copy, request.errbacks or ())):
        said = None if text is None else read(text, request.id, installation.signer)
        if isinstance(said, Signed):
            return said
    return None


def _following(self: Backend, request: Context, *args: Any) -> Any:
    token = _failed.set(request)
    try:
        return _call_errbacks(self, request, *args)
    finally:
        _failed.reset(token)


def _copy(errback: Mapping[str, Any]) -> object:
    return ((errback.get("options") or {}).get("headers") or {}).get(HEADER)
