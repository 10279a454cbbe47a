"""Keeps what calls say and hear, where the configuration asks for it: capped, and without what is nobody's business.

It is written after the call, by another thread; see :meth:`llmguard.runtime.notices.Notices.note`. Where payloads are
off there is no such stage, and nothing is kept of any call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llmguard.core.decision import Refuse
from llmguard.core.effects import Notice, Steps
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.notes import PayloadNote
from llmguard.core.transcript import Transcript

MARGIN: Final = 512
"""Bytes kept beyond the cap until all is cleaned, so that a secret that the cap cuts in two is still known as one."""


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """``max_bytes`` are kept of a prompt and of a reply each; ``clean`` makes the text of them that is written."""

    max_bytes: int
    clean: Callable[[bytes], str]
    redacted: bool


class Audit:
    """Hears along with calls that reach a provider. Innermost, so that it hears what was really said."""

    passive = False

    def __init__(self, policy: AuditPolicy) -> None:
        self._policy = policy
        self._room = policy.max_bytes + MARGIN

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Never refuses."""
        yield from ()
        x.transcript = Transcript(self._room)
        return None

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Nothing to look after."""
        yield from ()
        return None

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """Hand over what was heard, to be cleaned and written by others."""
        heard = x.transcript
        if heard is None or not x.sent:
            return
        policy, prompt = self._policy, x.call.body
        yield Notice(
            PayloadNote(
                x.event_id,
                x.opened_at,
                x.who.org,
                x.who.team,
                prompt[: self._room],
                heard.head,
                len(prompt),
                heard.size,
                policy.max_bytes,
                policy.redacted,
                policy.clean,
            )
        )
