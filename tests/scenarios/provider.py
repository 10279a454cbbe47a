"""The provider of the scenarios: it knows by the words in a body whose call it is, and answers as that one says."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.scenarios.calls import Scenario
from tests.support.upstream import Answer, Seen, Upstream, answer

_MARK = re.compile(rb"\[([a-z0-9-]+) at ([a-z0-9-]+)\]")
Whose = tuple[str, str]


def mark(scenario: str, door: str) -> str:
    """What a body says of itself."""
    return f"[{scenario} at {door}]"


class Provider(Upstream):
    """Also notes who called, and which calls are not over. ``default`` answers where a scenario says nothing."""

    def __init__(self, scenarios: Mapping[str, Scenario], default: Any) -> None:
        super().__init__()
        self.seen: defaultdict[Whose, list[Seen]] = defaultdict(list)
        self.busy: set[tuple[Whose, int]] = set()
        self._scenarios = scenarios
        self._default = default

    def numbers(self, whose: Whose) -> set[int]:
        """The connections on which somebody's calls came."""
        return {seen.connection for seen in self.seen[whose]}

    def busy_for(self, door: str) -> set[str]:
        """Whose calls of a door are not over."""
        return {whose[0] for whose, _ in self.busy if whose[1] == door}

    def say(self, seen: Seen) -> Answer:
        """The reply to a request."""
        found = _MARK.search(seen.body)
        if found is None:
            return answer(status=418, json_body={"error": {"message": "whose call is this?"}})
        scenario = self._scenarios[found[1].decode()]
        said = scenario.provider or self._default
        return said if isinstance(said, Answer) else said(seen)

    async def _answer(self, seen: Seen, reader: Any, writer: asyncio.StreamWriter) -> bool:
        found = _MARK.search(seen.body)
        whose = (found[1].decode(), found[2].decode()) if found else ("", "")
        self.seen[whose].append(seen)
        entry = (whose, seen.connection)
        self.busy.add(entry)
        try:
            return await super()._answer(seen, reader, writer)
        finally:
            self.busy.discard(entry)
            self._note()


@contextmanager
def provider(scenarios: Mapping[str, Scenario], default: Any) -> Iterator[Provider]:
    """A running provider."""
    server = Provider(scenarios, default)
    server.reply(server.say)
    server.start()
    try:
        yield server
    finally:
        server.stop()
