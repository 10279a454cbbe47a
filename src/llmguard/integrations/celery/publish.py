"""Signs the messages that this process publishes, whoever in Celery publishes them.

``before_task_publish`` is the one place that every message passes: calls, retries, replacements, chain steps, links,
chord bodies, errbacks, `send_task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmguard.core.call import Caller
from llmguard.core.signed import Signed, Signer
from llmguard.integrations.celery.delivery import Delivery, enclosing, key_of, known, origin
from llmguard.integrations.celery.headers import HEADER, read, sign
from llmguard.runtime.context import current

if TYPE_CHECKING:
    from llmguard.integrations.celery.installation import Installation


def sign_message(installation: Installation, body: Any, headers: dict[str, Any], properties: Mapping[str, Any]) -> None:
    """Put the header into a message: that of whom it works for, or none at all."""
    task_id = properties["correlation_id"]
    found = _claim(installation, task_id, headers)
    text = None
    if found is not None:
        whose, depth = found
        tree_id = whose.tree_id or headers.get("root_id") or task_id
        names = (whose.org, whose.team, whose.env, whose.feature, whose.end_user)
        signed = Signed(*names, tree_id, task_id, depth, whose.trace_id)
        text = sign(signed, task_id, installation.signer)
        _sign_errbacks(body, signed, text, installation.signer)
    _write(headers, text)


def _claim(installation: Installation, task_id: str, headers: Mapping[str, Any]) -> tuple[Caller | Signed, int] | None:
    """Whom a message works for, and how deep it is; the strongest claim first.

    A task that is published again under its own id stays what it is. A header that was signed for this very message
    stands. Then comes the task that is running here or whoever the context names. A copy that an errback carries for
    its parent is for messages that Celery's main process publishes, which knows nothing else.
    """
    around = enclosing()
    own = _own(around, key_of(task_id, headers.get("replaced_task_nesting")))
    if own is not None:
        return own, own.depth
    given = headers.get(HEADER)
    running_id = current().task_id if around is None else around.request.id
    if given is not None and running_id != task_id:
        explicit = read(given, task_id, installation.signer)
        if isinstance(explicit, Signed):
            return explicit, explicit.depth
    here, depth = origin(around)
    if known(here) or given is None:
        return (here, depth) if known(here) else None
    carried = read(given, headers.get("parent_id") or "", installation.signer)
    return (carried, carried.depth) if isinstance(carried, Signed) else None


def _own(around: Delivery | None, key: str) -> Caller | None:
    """The caller of the task that is published again: by `retry`, or by a thread of its body."""
    if around is not None:
        return around.caller() if around.key == key else None
    here = current()
    return here if here.execution is not None and here.execution.key == key else None


def _write(headers: dict[str, Any], text: str | None) -> None:
    """The message's header, also in the place where tracers keep the headers that a later retry sends again."""
    inner = headers.get("headers")
    for place in (headers, inner) if isinstance(inner, dict) else (headers,):
        if text is None:
            place.pop(HEADER, None)
        else:
            place[HEADER] = text


def _sign_errbacks(body: Any, signed: Signed, text: str, signer: Signer) -> None:
    """Give the errbacks a copy: after a time limit or a lost worker it is the main process that publishes them."""
    embedded = body[2] if isinstance(body, tuple | list) else body
    if embedded.get("errbacks"):
        embedded["errbacks"] = [_carrying(errback, text) for errback in embedded["errbacks"]]
    if embedded.get("chord"):
        embedded["chord"] = _chord(embedded["chord"], signed, signer)


def _chord(body: Mapping[str, Any], signed: Signed, signer: Signer) -> dict[str, Any]:
    """A chord's body whose errbacks, and those of its parts, carry copies bound to the body that they stand for."""
    copy = {**body, "options": dict(body.get("options") or {}), "kwargs": dict(body.get("kwargs") or {})}
    parts = copy["kwargs"].get("tasks")
    if parts and copy.get("subtask_type"):
        copy["kwargs"]["tasks"] = [_chord(part, signed, signer) for part in parts]
    task_id, errbacks = copy["options"].get("task_id"), copy["options"].get("link_error")
    if task_id and errbacks:
        text = sign(replace(signed, task_id=task_id), task_id, signer)
        copy["options"]["link_error"] = [_carrying(errback, text) for errback in _several(errbacks)]
    return copy


def _carrying(errback: Mapping[str, Any], text: str) -> dict[str, Any]:
    # A copy: one and the same signature may be the errback of many messages.
    options = dict(errback.get("options") or {})
    options["headers"] = {**(options.get("headers") or {}), HEADER: text}
    return {**errback, "options": options}


def _several(errbacks: Any) -> list[Any]:
    return list(errbacks) if isinstance(errbacks, list | tuple) else [errbacks]
