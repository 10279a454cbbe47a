"""Which rules were in force since when: a changed configuration is on the audit trail before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.engine import Connection, Engine

from llmguard.ledger.audit import SYSTEM, Trail
from llmguard.ledger.engine import reading, writing

CHANGED: Final = "config.changed"

Rules = Mapping[str, Any]
"""Rules by name, in JSON's values."""


class Configurations:
    """The configurations that have worked with one ledger. Each is known by where it stands, such as a file's path."""

    def __init__(self, engine: Engine, trail: Trail) -> None:
        self._engine = engine
        self._trail = trail

    def begin(self, source: str, rules: Rules) -> list[str]:
        """Record these rules where they are not the last ones that ``source`` had; what has changed, a line for each.

        Of several processes that begin at once, one records it. Raises LedgerUnavailable: then they are not to be used.
        """
        with reading(self._engine) as connection:
            before = self._last(connection, source)
        if before == rules:
            return []
        with writing(self._engine) as connection:
            self._trail.lock(connection)
            before = self._last(connection, source)
            changes = differences(before or {}, rules)
            if before != rules:
                details = {"changes": changes if before is not None else ["the first of this source"], "rules": rules}
                self._trail.append(connection, SYSTEM, CHANGED, source, details)
        return changes

    def _last(self, connection: Connection, source: str) -> Rules | None:
        record = self._trail.latest(connection, CHANGED, source)
        return None if record is None else json.loads(record.details)["rules"]


def differences(before: Rules, after: Rules) -> list[str]:
    """What is new, gone and changed, in words: `budgets.search: limit $50 -> $80`."""
    lines = []
    for name in sorted({*before, *after}):
        if name not in before:
            lines.append(f"{name}: new, {_words(after[name])}")
        elif name not in after:
            lines.append(f"{name}: removed, it had {_words(before[name])}")
        else:
            old, new = before[name], after[name]
            keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            lines += [f"{name}: {key} {_word(old.get(key))} -> {_word(new.get(key))}" for key in keys]
    return lines


def _words(rule: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_word(value)}" for key, value in rule.items())


def _word(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
