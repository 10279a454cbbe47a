"""Calls from within a process, without a client or a provider: opened, sent, answered and closed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmguard.core.call import Call, Caller
from llmguard.core.decision import Admit, Decision
from llmguard.core.exchange import Ending, Exchange, Pipeline
from llmguard.guard import Guard
from llmguard.providers import registry
from llmguard.runtime.ids import uuid7
from llmguard.runtime.process import ProcessService

CHAT = "/v1/chat/completions"
DIALECT = registry.dialect("openai_chat", "openai")
PROMPT = 10
"""Tokens of the prompt as the provider reports them. The sandbox costs 1,000 nano-USD a token."""
TOTAL = "usd|total|0|team="
"""What the bucket of a team is called, before the team's name."""


def config(home: Path, store: str = "memory://", limit: str = "$100") -> dict[str, Any]:
    """A budget for each team, and the sandbox."""
    return {
        "store": store,
        "ledger": f"sqlite:///{home / 'ledger.db'}",
        "spool": {"path": str(home / "spool"), "quota": "64MiB"},
        "providers": {"sandbox": {"dialect": "sandbox"}},
        "budgets": [{"name": "team", "scope": {"team": "*"}, "limit": limit, "window": "total", "overshoot": "0%"}],
    }


class Process:
    """A guard in this process, and calls through it."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._stages: tuple[ProcessService, Pipeline] | None = None

    @property
    def service(self) -> ProcessService:
        return self.guard.process()

    def exchange(self, caller: Caller) -> Exchange:
        """A call that has begun."""
        service = self.service
        if self._stages is None or self._stages[0] is not service:
            self._stages = service, Pipeline(self.guard.stages(service.owner, inside=True))
        call = Call(
            "openai_chat", "openai", CHAT, "POST", CHAT, "", {}, b"{}", "sandbox/echo", prompt_bytes=40,
            max_tokens=100, doc={"messages": [{"role": "user", "content": "Hi"}]},
        )  # fmt: skip
        x = Exchange(call, DIALECT, self._stages[1], event_id=uuid7(), secret=None, now=service.now())
        x.caller = caller
        service.enter(x)
        return x

    def call(self, caller: Caller, output: int = 20) -> Decision:
        """A whole call. An admitted one costs (10 + ``output``) × 1,000 nano-USD."""
        x = self.exchange(caller)
        decision = self.service.run(x.open(x.now))
        self.answer(x, decision, output)
        return decision

    async def acall(self, caller: Caller, output: int = 20) -> Decision:
        """The same in an event loop."""
        x = self.exchange(caller)
        decision = await self.service.arun(x.open(x.now))
        self.answer(x, decision, output)
        return decision

    def answer(self, x: Exchange, decision: Decision, output: int) -> None:
        """What the provider says to an admitted call."""
        service = self.service
        if isinstance(decision, Admit):
            service.perform(x.dispatch())
            x.answer(200, service.now())
            usage = {"prompt_tokens": PROMPT, "completion_tokens": output}
            x.whole("application/json", json.dumps({"usage": usage}).encode(), service.now())
        service.close(x, Ending.DONE)

    def spent(self) -> dict[str, int]:
        """Nano-USD by team, as the ledger has it."""
        ledger = self.guard.ledger()
        try:
            with ledger.snapshot() as view:
                return {team: amount for (team,), amount in view.sums("usd", 0, 0, by=["team"]).items()}
        finally:
            ledger.close()


def cost(output: int) -> int:
    """What an answered call costs."""
    return (PROMPT + output) * 1_000
