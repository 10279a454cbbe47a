"""The canonical order of stages, and what most of them have in common.

authn first, because a stranger's request must cost nothing and learn nothing; route before tenancy and quota, because
both depend on the provider chosen; tenancy before quota, so that a forbidden read holds no money; runaway after what a
call is refused for on its own account, and before quota, which takes what it watches along to the store; cache before
quota, because a kept reply takes no money; quota last of those that may refuse, so that nothing is held for a call that
another stage turns down; meter near the bytes; audit innermost, where it hears what was really said. Closing runs in
reverse: the record is written (meter) before the hold is settled (quota), and a reply is kept (cache) only then. For
calls from within the process `attributed` takes the place of authn.
"""

from __future__ import annotations

from llmguard.core.decision import Refuse
from llmguard.core.effects import Steps
from llmguard.core.exchange import Ending, Exchange

ORDER = ("authn", "route", "tenancy", "runaway", "cache", "quota", "meter", "audit")


class PassiveStage:
    """A stage that neither watches a running stream nor does anything at the end."""

    passive = True

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Nothing to look after."""
        yield from ()
        return None

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """Nothing to end."""
        yield from ()
