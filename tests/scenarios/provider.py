"""The provider of the scenarios: it knows by the words in a body whose call it is, and answers as that one says."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.scenarios.calls import Scenario
from tests.support.upstream import Answer, Seen, Upstream

MARKED = re.compile(rb"_([a-z0-9-]+)_at_([0-9]{2})_")
Whose = tuple[str, str]
"""The names of a scenario and of a door."""


class Provider(Upstream):
    """Also notes who called, and which calls are not over. ``default`` answers where a scenario says nothing."""

    def __init__(self, scenarios: Mapping[str, Scenario], doors: Sequence[str], default: Any) -> None:
        super().__init__()
        self._doors = doors
        self.seen: defaultdict[Whose, list[Seen]] = defaultdict(list)
        self.busy: set[tuple[Whose, int]] = set()
        self._scenarios = scenarios
        self._default = default

    def mark(self, whose: Whose) -> str:
        """What a body says of itself: of one length at all doors, as its tokens are counted."""
        scenario, door = whose
        return f"_{scenario}_at_{self._doors.index(door):02}_"

    def numbers(self, whose: Whose) -> set[int]:
        """The connections on which somebody's calls came."""
        return {seen.connection for seen in self.seen[whose]}

    def busy_for(self, door: str) -> set[str]:
        """Whose calls of a door are not over."""
        return {whose[0] for whose, _ in self.busy if whose[1] == door}

    def say(self, seen: Seen) -> Answer:
        """The reply to a request."""
        name, _ = self._whose(seen)
        said = (self._scenarios[name].provider if name else None) or self._default
        return said if isinstance(said, Answer) else said(seen)

    def _whose(self, seen: Seen) -> Whose:
        found = MARKED.search(seen.body)
        return ("", "") if found is None else (found[1].decode(), self._doors[int(found[2])])

    async def _answer(self, seen: Seen, reader: Any, writer: asyncio.StreamWriter) -> bool:
        whose = self._whose(seen)
        self.seen[whose].append(seen)
        entry = (whose, seen.connection)
        self.busy.add(entry)
        try:
            return await super()._answer(seen, reader, writer)
        finally:
            self.busy.discard(entry)
            self._note()


@contextmanager
def provider(scenarios: Mapping[str, Scenario], doors: Sequence[str], default: Any) -> Iterator[Provider]:
    """A running provider."""
    server = Provider(scenarios, doors, default)
    server.reply(server.say)
    server.start()
    try:
        yield server
    finally:
        server.stop()
