"""Who calls, and whom the call is charged to."""

from __future__ import annotations

from llmguard.core.call import Attribution, Call, Principal
from llmguard.core.decision import Refuse
from llmguard.core.effects import Steps, Verify
from llmguard.core.exchange import Exchange
from llmguard.errors import GuardUnavailable
from llmguard.stages.attribution import NAME_LIMIT, describe
from llmguard.stages.base import PassiveStage

ANY_FEATURE = "*"
_WHY = {
    "unknown": "this key is not known here; ask whoever runs llmguard for one (llmguard keys create)",
    "expired": "this key has expired; ask for a new one (llmguard keys rotate)",
    "revoked": "this key was revoked; ask for a new one (llmguard keys create)",
}


class Authn(PassiveStage):
    """Verifies the caller's key and derives the call's attribution, which headers may only narrow."""

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Refuses with 401 `invalid_api_key`, 403 `attribution_not_allowed`, 400 `invalid_metadata`, and 503
        `auth_unavailable`."""
        if x.secret is None:
            return _unauthorised("no API key was given; send one as Authorization: Bearer lg_… (x-api-key works too)")
        try:
            verdict = yield Verify(x.secret)
        except GuardUnavailable as error:
            return Refuse("auth_unavailable", 503, f"the key cannot be checked now: {error}", retry_after=5)
        if not isinstance(verdict, Principal):
            return _unauthorised(_WHY.get(verdict, _WHY["unknown"]))
        x.principal = verdict
        return _attribute(x.who, verdict, x.call)


def _unauthorised(message: str) -> Refuse:
    return Refuse("invalid_api_key", 401, message)


def _attribute(who: Attribution, principal: Principal, call: Call) -> Refuse | None:
    who.org, who.team, who.env = principal.org, principal.team, principal.env
    who.principal, who.key_id = principal.subject, principal.key_id
    wanted = call.headers.get("x-llmguard-feature")
    if wanted is None:
        if principal.feature != ANY_FEATURE:
            who.feature = principal.feature
    elif len(wanted) <= NAME_LIMIT and _narrows(wanted, principal.feature):
        who.feature = wanted
    else:
        return Refuse(
            "attribution_not_allowed",
            403,
            f"this key is for feature {principal.feature!r}; x-llmguard-feature may name it or a part of it "
            f"({principal.feature}/…), of at most {NAME_LIMIT} characters",
        )
    return describe(who, call, None, None)


def _narrows(wanted: str, allowed: str) -> bool:
    return bool(wanted) and (
        allowed == ANY_FEATURE or wanted == allowed or (wanted.startswith(allowed + "/") and wanted.isprintable())
    )
