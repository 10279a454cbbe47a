"""Callers of one feature that repeat themselves, or call more often than ever: counted in this process.

Across tasks, and where prompts are only alike, this warns and never stops.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llmguard.core import repeats
from llmguard.core.decision import Refuse
from llmguard.core.effects import Notice, Steps
from llmguard.core.exchange import Exchange
from llmguard.core.repeats import Pace, Repeats
from llmguard.core.watch import Rule, Watch
from llmguard.stages import trips

_MOST_FEATURES: Final = 5_000

_SAMPLED: Final = 8
"""What is alike is looked for in every eighth call only, and counts eightfold: the longer fingerprint has its price."""

Often = tuple[int, int]
"""So many calls in so many milliseconds."""


class Features:
    """What each feature has sent of late. ``velocity`` is a multiple of the usual pace, 0 watches none."""

    def __init__(self, identical: Often, similar: Often, velocity: int) -> None:
        self._most_identical, self._window_ms = identical
        self._most_similar = similar[0]
        self._velocity = velocity
        self._identical = Repeats(identical[1])
        self._similar = Repeats(similar[1])
        self._told = Repeats(identical[1])
        self._paces: dict[str, Pace] = {}
        self._calls = 0

    def watch(self, x: Exchange, *, enforced: bool) -> Steps[Refuse | None]:
        """Count a call. Identical prompts stop the feature for the length of their window where that is
        ``enforced``; everything else warns."""
        who, body = x.who, x.call.body
        name = f"feature:{who.org}/{who.team}/{who.env}/{who.feature}"
        if enforced:
            old = x.watch or Watch()
            x.watch = replace(old, trips=(*old.trips, name))
        same = self._identical.count((name, repeats.exact(body)), x.now)
        if same > self._most_identical:
            rule = Rule("runaway.identical_prompts", "feature", name, self._most_identical)
            if enforced:
                return (yield from trips.stop(x, rule, same, until=x.now + self._window_ms))
            yield from self._warn(x, rule, same)
        self._calls += 1
        if self._calls % _SAMPLED == 0:
            alike = _SAMPLED * self._similar.count((name, repeats.similar(body)), x.now)
            if alike > self._most_similar:
                yield from self._warn(x, Rule("runaway.similar_prompts", "feature", name, self._most_similar), alike)
        if self._velocity:
            yield from self._hurry(x, name)
        return None

    def _hurry(self, x: Exchange, name: str) -> Steps[None]:
        pace = self._paces.get(name)
        if pace is None:
            if len(self._paces) >= _MOST_FEATURES:
                return
            pace = self._paces[name] = Pace()
        pace.count(x.now)
        limit = pace.limit(self._velocity)
        if limit is not None and pace.calls > limit:
            yield from self._warn(x, Rule("runaway.velocity", "feature", name, limit, "calls in ten minutes"), limit)

    def _warn(self, x: Exchange, rule: Rule, seen: int) -> Steps[None]:
        """Once for a feature and rule in each window."""
        if self._told.count((rule.name, rule.option), x.now) == 1:
            advice = f"look at what it sends; {rule.option} sets the limit"
            yield Notice(trips.note_of(x, rule, seen, "warned", advice))
