"""Whom a call is charged to that comes from within the process: what its context says, and nothing is verified."""

from __future__ import annotations

from llmguard.core.call import UNATTRIBUTED, Caller
from llmguard.core.decision import Refuse
from llmguard.core.effects import Steps
from llmguard.core.exchange import Exchange
from llmguard.stages.attribution import NAME_LIMIT, act_for, describe
from llmguard.stages.base import PassiveStage


class Attributed(PassiveStage):
    """Takes the place of :class:`llmguard.stages.authn.Authn`; the door has set ``x.caller``.

    What nobody said is `unattributed`, which has a small budget of its own.
    """

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Refuses with 403 `attribution_not_allowed` for a feature that is no name, and 400 `invalid_metadata`."""
        yield from ()
        caller = x.caller or Caller()
        who = x.who
        who.org = caller.org
        who.team = caller.team or UNATTRIBUTED
        who.env = caller.env or UNATTRIBUTED
        who.feature = x.call.headers.get("x-llmguard-feature") or caller.feature or UNATTRIBUTED
        who.task_id, who.tree_id = caller.task_id, caller.tree_id
        if len(who.feature) > NAME_LIMIT or not who.feature.isprintable():
            return Refuse(
                "attribution_not_allowed",
                403,
                f"x-llmguard-feature may have {NAME_LIMIT} characters at most, all of them printable",
            )
        refusal = describe(who, x.call, caller.end_user, caller.trace_id)
        act_for(who, x.call)
        return refusal
