"""All tenants share one provider key, so the guard keeps apart what they store there."""

from __future__ import annotations

from llmguard.core.decision import Refuse
from llmguard.core.effects import Owners, Steps
from llmguard.core.exchange import Exchange
from llmguard.errors import GuardUnavailable
from llmguard.stages.base import PassiveStage


def owner_name(org: str, team: str) -> str:
    """How an owner is written in the reply to :class:`llmguard.core.effects.Owners`."""
    return f"{org}/{team}"


class Tenancy(PassiveStage):
    """Lets a call name only objects of its own team: in its path or anywhere in its body."""

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Refuses with 404 `object_not_found`, alike for an unknown object and for another team's."""
        refs = x.call.reads if x.call.deletes is None else (*x.call.reads, x.call.deletes)
        if not refs:
            return None
        try:
            owners = yield Owners(x.target.provider, refs)
        except GuardUnavailable as error:
            return Refuse("objects_unavailable", 503, f"ownership cannot be checked now: {error}", retry_after=5)
        mine = owner_name(x.who.org, x.who.team)
        for ref, owner in zip(refs, owners, strict=True):
            if owner != mine:
                return Refuse(
                    "object_not_found",
                    404,
                    f"no {ref.kind.replace('_', ' ')} {ref.id!r} belongs to your team",
                )
        return None
