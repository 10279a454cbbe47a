"""Who calls, and whom the call is charged to."""

from __future__ import annotations

from msgspec.structs import replace

from llmguard.core.call import UNATTRIBUTED, Attribution, Caller, Principal
from llmguard.core.decision import Refuse
from llmguard.core.effects import Emit, Notice, Steps, Verify
from llmguard.core.exchange import Exchange
from llmguard.core.notes import ContextNote
from llmguard.core.signed import HEADER, HTTP, Signed, Signer
from llmguard.errors import GuardUnavailable
from llmguard.stages.attribution import NAME_LIMIT, act_for, describe
from llmguard.stages.base import PassiveStage

ANY = "*"
"""In a key: its callers choose. A team and an environment may be chosen by a signed context only."""

FOREIGN = "foreign"
"""Why a genuine context is turned away: it is another team's."""

_UNSIGNED = Signed()

_WHY = {
    "unknown": "this key is not known here; ask whoever runs llmguard for one (llmguard keys create)",
    "expired": "this key has expired; ask for a new one (llmguard keys rotate)",
    "revoked": "this key was revoked; ask for a new one (llmguard keys create)",
}


Known = tuple[Principal, Attribution, dict[str, str]]
"""What was concluded from a head: the key that it was concluded for, attribution and metadata."""


class Authn(PassiveStage):
    """Verifies the caller's key and derives the call's attribution, which headers may only narrow.

    ``signer`` reads `x-llmguard-context`. One that means nothing here changes nothing: the call goes on under the key's
    own attribution, and the attempt is counted and put on the audit trail.
    """

    def __init__(self, signer: Signer | None = None) -> None:
        self._signer = signer

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
        known: Known | None = x.call.memo.get(self)
        if known is None or known[0] is not verdict:
            return (yield from self._attribute(x, verdict))
        x.who, x.call.metadata = replace(known[1]), known[2]
        act_for(x.who, x.call)
        return None

    def _attribute(self, x: Exchange, key: Principal) -> Steps[Refuse | None]:
        """What the head says under this key, kept for calls with the same head: but not what a signed context says,
        which is believed for a time only."""
        _charge_to(x, key)
        signed = yield from self._read(x, key)
        if signed is not None:
            _choose(x, key, signed)
        refusal = _narrow(x, key, signed or _UNSIGNED)
        if refusal is None and HEADER not in x.call.headers:
            x.call.memo[self] = key, replace(x.who), x.call.metadata
        act_for(x.who, x.call)
        if signed is not None:
            x.caller = _caller(x.who, signed.depth)
        return refusal

    def _read(self, x: Exchange, key: Principal) -> Steps[Signed | None]:
        """The context that came with the call. None without one, and for one that is not believed."""
        text = x.call.headers.get(HEADER)
        if text is None or self._signer is None:
            return None
        signed = _fitting(self._signer.read(text, HTTP, x.now), key)
        if isinstance(signed, str):
            yield Emit("context", signed, x.who)
            yield Notice(ContextNote(signed, f"key {key.key_id}", x.now, x.who.org, x.who.team))
            return None
        return signed


def _unauthorised(message: str) -> Refuse:
    return Refuse("invalid_api_key", 401, message)


def _charge_to(x: Exchange, key: Principal) -> None:
    """What the key alone says; what it leaves to its callers stays unattributed."""
    who = x.who
    who.org, who.principal, who.key_id = key.org, key.subject, key.key_id
    who.team = UNATTRIBUTED if key.team == ANY else key.team
    who.env = UNATTRIBUTED if key.env == ANY else key.env


def _fitting(signed: Signed | str, key: Principal) -> Signed | str:
    """A context counts whole or not at all: none of another team, whatever else it says."""
    if isinstance(signed, str):
        return signed
    same = signed.org == key.org and (key.team == ANY or signed.team in (None, key.team))
    return signed if same else FOREIGN


def _choose(x: Exchange, key: Principal, signed: Signed) -> None:
    who = x.who
    if key.team == ANY and signed.team is not None:
        who.team = signed.team
    if key.env == ANY and signed.env is not None:
        who.env = signed.env
    who.task_id, who.tree_id = signed.task_id, signed.tree_id


def _narrow(x: Exchange, key: Principal, signed: Signed) -> Refuse | None:
    """Feature, end user and trace: as a header of their own says, else the context, else the key."""
    wanted = x.call.headers.get("x-llmguard-feature")
    if wanted is not None:
        if not _narrows(wanted, key.feature):
            return _too_wide(key.feature)
        x.who.feature = wanted
    elif signed.feature is not None and _narrows(signed.feature, key.feature):
        x.who.feature = signed.feature
    elif key.feature != ANY:
        x.who.feature = key.feature
    return describe(x.who, x.call, signed.end_user, signed.trace_id)


def _caller(who: Attribution, depth: int) -> Caller:
    return Caller(who.org, who.team, who.env, who.feature, who.end_user, who.task_id, who.tree_id, who.trace_id, depth)


def _narrows(wanted: str, allowed: str) -> bool:
    if wanted == allowed:
        return True
    named = 0 < len(wanted) <= NAME_LIMIT and wanted.isprintable()
    return named and (allowed == ANY or wanted.startswith(allowed + "/"))


def _too_wide(feature: str) -> Refuse:
    return Refuse(
        "attribution_not_allowed",
        403,
        f"this key is for feature {feature!r}; x-llmguard-feature may name it or a part of it "
        f"({feature}/…), of at most {NAME_LIMIT} characters",
    )
