"""What the headers of a call say about whom it is charged to, for callers from outside and from within alike."""

from __future__ import annotations

import re
from typing import Final

from llmguard.core.call import Attribution, Call
from llmguard.core.decision import Refuse
from llmguard.core.metadata import BadMetadata, read_metadata

NAME_LIMIT: Final = 128
"""Characters that a team, a feature or a user may have."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def describe(who: Attribution, call: Call, end_user: str | None, trace_id: str | None) -> Refuse | None:
    """Read metadata, end user and trace: each from its header, else what the caller's context says; see :func:`act_for`
    for the body.

    Refuses with 400 `invalid_metadata`.
    """
    headers = call.headers
    try:
        call.metadata = read_metadata(headers)
    except BadMetadata as bad:
        return Refuse("invalid_metadata", 400, str(bad))
    user = headers.get("x-llmguard-user") or end_user
    who.end_user = _legible(user) if user else None
    traceparent = headers.get("traceparent")
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    who.trace_id = match.group(1) if match else trace_id
    return None


def act_for(who: Attribution, call: Call) -> None:
    """Take the end user from the body where neither header nor context names one."""
    if who.end_user is None and call.end_user:
        who.end_user = _legible(call.end_user)


def _legible(name: str) -> str:
    """A name that may be shown on a terminal: what does not print (escape sequences, line ends, NUL) is replaced."""
    name = name[:NAME_LIMIT]
    return name if name.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in name)
