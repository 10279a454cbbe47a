"""What is kept of a stopped task's message, so that it can be run again."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

import kombu.serialization
from kombu.exceptions import KombuError

from llmguard.core.call import UNATTRIBUTED
from llmguard.integrations.celery.attempts import Attempt
from llmguard.ledger import DeadLetter
from llmguard.runtime.ids import now_ms, uuid7

logger = logging.getLogger(__name__)

LONGEST: Final = 1024 * 1024
"""Bytes of arguments at most."""


def keep(attempt: Attempt, rule: str, reason: str) -> None:
    """Keep the message of a task that was stopped; say so where it cannot be. Eager tasks have none."""
    request, caller = attempt.request, attempt.caller
    if request.is_eager:
        return
    try:
        content_type, encoding, body = _written(attempt)
    except (KombuError, TypeError, ValueError) as error:
        logger.warning("the message of %s[%s] was not kept: %s", attempt.execution.name, request.id, error)
        return
    at = now_ms()
    letter = DeadLetter(
        uuid7(at),
        at,
        attempt.task.name,
        request.id,
        caller.org,
        caller.team or UNATTRIBUTED,
        caller.env or UNATTRIBUTED,
        caller.feature or UNATTRIBUTED,
        rule,
        reason,
        content_type,
        encoding,
        body,
        json.dumps(_options(attempt)),
        attempt.execution.tree_id,
    )
    attempt.service.notices.keep(letter)


def _written(attempt: Attempt) -> tuple[str, str, bytes]:
    request, task = attempt.request, attempt.task
    serializer = task.serializer or task.app.conf.task_serializer
    dumps: Any = kombu.serialization.dumps
    content_type, encoding, body = dumps((request.args or (), request.kwargs or {}), serializer)
    data = body.encode() if isinstance(body, str) else body
    if len(data) > LONGEST:
        raise ValueError(f"its arguments are longer than {LONGEST} bytes")
    return content_type, encoding, data


def _options(attempt: Attempt) -> dict[str, Any]:
    """How to send it. Nothing of its group or chord: those have counted it as failed."""
    request = attempt.request
    info = request.delivery_info or {}
    options = {
        "queue": info.get("routing_key") if not info.get("exchange") else None,
        "exchange": info.get("exchange"),
        "routing_key": info.get("routing_key") if info.get("exchange") else None,
        "priority": info.get("priority"),
        "link": request.callbacks,
        "link_error": request.errbacks,
        "chain": request.chain,
        "shadow": request.shadow,
        "time_limit": request.time_limit,
        "soft_time_limit": request.soft_time_limit,
    }
    return {name: value for name, value in options.items() if value and _plain(value)}


def _plain(value: object) -> bool:
    """Whether JSON can say it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
