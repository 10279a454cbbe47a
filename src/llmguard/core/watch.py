"""What the runaway guard puts on a call: trips that stop it, counters and budgets of its task and its tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from llmguard.core.outage import WhenStoreDown
from llmguard.core.rules import BudgetRule
from llmguard.core.runs import Tally

Scope = Literal["task", "tree", "name", "feature"]


class Rule(NamedTuple):
    """One rule of a task's policy, or of the section `runaway`, as it stands for one unit of work.

    ``option`` is how the policy writes it, ``name`` the trip that it sets. ``limit`` is in ``unit`` (`usd`: nano-USD).
    ``enforced`` rules stop, the others warn. ``chosen`` says that somebody wrote the option.
    """

    option: str
    scope: Scope
    name: str
    limit: int
    unit: str = "calls"
    enforced: bool = True
    chosen: bool = True


@dataclass(frozen=True, slots=True)
class Watch:
    """The same for every call of one execution: ``counted`` are the rules behind ``tallies``, ``paid`` those behind
    ``budgets``, each in the same order. ``when_store_down`` is what holds while nobody can look at trips and
    counters."""

    trips: tuple[str, ...] = ()
    tallies: tuple[Tally, ...] = ()
    counted: tuple[Rule, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()
    paid: tuple[Rule, ...] = ()
    when_store_down: WhenStoreDown = "allow"

    def paid_rule(self, bucket_rule: str) -> Rule | None:
        """The rule behind a bucket whose rule has this name; None for one that is not of the runaway guard."""
        return next((rule for rule in self.paid if rule.option == bucket_rule), None)
