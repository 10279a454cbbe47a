"""Notes put into sentences for people and documents for programs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from llmguard.core.money import usd_string
from llmguard.core.notes import BudgetNote, ContextNote, DriftNote, TripNote
from llmguard.core.rules import PPM
from llmguard.sinks.webhook import Alert

_PER = {"hour": "an hour", "total": "in total"}


def trip(note: TripNote, row_id: str) -> Alert:
    """A trip; its alert has the id of its row."""
    text = f"runaway: {_whom(note)} was stopped by {_rule(note)}; `llmguard trips show {row_id}`"
    data = {
        "scope": note.scope,
        "name": note.name,
        "rule": note.rule,
        "limit": _amount(note.unit, note.limit),
        "seen": _amount(note.unit, note.seen),
        "unit": note.unit,
        "org": note.org,
        "team": note.team,
        "env": note.env,
        "feature": note.feature,
        "task": note.task,
        "task_id": note.task_id,
        "tree_id": note.tree_id,
        "cost_usd": usd_string(note.cost_nano),
    }
    return Alert(row_id, "trip", note.at, text, data)


def warning(note: TripNote) -> str:
    """A rule that was only watched, or is about to stop something."""
    advice = f"; {note.advice}" if note.advice else ""
    return f"runaway: {_whom(note)} has come to {_rule(note)}, and runs on{advice}"


def budget(note: BudgetNote) -> Alert:
    """A budget's threshold; the same id whoever tells of it."""
    share = f"{note.threshold * 100 / note.limit:.4g}%"
    whom = ", ".join(f"{name}={value}" for name, value in note.scope.items()) or "everyone"
    until = f", until {_moment(note.end)}" if note.end else ""
    limit = _readable(note.unit, note.limit)
    text = f"budget {note.rule} ({whom}): {share} of {limit} {_PER.get(note.window, f'a {note.window}')} spent{until}"
    data = {
        "rule": note.rule,
        "scope": dict(note.scope),
        "unit": note.unit,
        "limit": _amount(note.unit, note.limit),
        "threshold": _amount(note.unit, note.threshold),
        "threshold_ppm": note.threshold * PPM // note.limit,
        "window": note.window,
        "reset_at": _moment(note.end) if note.end else None,
    }
    digest = hashlib.sha256(f"{note.bucket} {note.threshold}".encode()).hexdigest()
    return Alert(f"budget-{digest[:32]}", "budget", note.at, text, data)


def drift(note: DriftNote) -> Alert:
    """Quota store and ledger apart."""
    text = (
        f"quota store and ledger stay apart: {note.calls} calls had to be settled again that had been settled again "
        "before; look at the store's memory and failovers"
    )
    return Alert(f"drift-{note.at}", "drift", note.at, text, {"calls": note.calls})


def context(note: ContextNote) -> str:
    """A signed context that was not believed."""
    why = {
        "forged": "none of this guard's signing keys made it",
        "replayed": "it was made for another message",
        "expired": "it is too old, or a clock is wrong",
        "foreign": "it is another team's",
    }[note.why]
    return f"{note.bearer} of team {note.team} came with a context that was not believed: {why}"


def _whom(note: TripNote) -> str:
    what = {
        "task": f"task {note.task} {note.task_id} of ",
        "tree": f"tree {note.tree_id} of ",
        "name": f"every task {note.task} of ",
        "feature": "",
    }[note.scope]
    return f"{what}{note.team}/{note.feature} ({note.env})"


def _rule(note: TripNote) -> str:
    seen, limit = _readable(note.unit, note.seen), _readable(note.unit, note.limit)
    cost = f", ${usd_string(note.cost_nano)} spent" if note.cost_nano else ""
    return f"{note.rule} ({seen} of {limit}{cost})"


def _readable(unit: str, number: int) -> str:
    return f"${usd_string(number)}" if unit == "usd" else f"{number} {unit}"


def _amount(unit: str, number: int) -> str:
    return usd_string(number) if unit == "usd" else str(number)


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
