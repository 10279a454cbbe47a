"""From rounds to the Markdown table: medians, and ratios taken within each round before their median."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from benchmarks.contenders import TITLES
from benchmarks.measure import FEW_CONNECTIONS, Load, Round

Rounds = Mapping[str, Sequence[Round]]
"""Per contender one entry per round; every contender has the same number."""

_FULL = 0.93
_NOISY = 0.10
_HEAD = (
    "contender",
    "req/s per core",
    "× FastAPI + httpx",
    "× nginx",
    "CPU µs a call",
    "req/s",
    f"req/s at {FEW_CONNECTIONS}",
    "p50 / p99 ms",
    "added p50 / p99 ms",
    "streams/s",
    "CPU µs a stream",
    "RSS MB",
    "own / shared core",
)


def render(rounds: Rounds, missing: Mapping[str, str], connections: int) -> str:
    """The table, with a line under it for each thing a reader must know."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    rows += [_row(name, rounds) for name in rounds]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *_notes(rounds, missing, connections)])


def _row(name: str, rounds: Rounds) -> tuple[str, ...]:
    mine = rounds[name]

    def middle(value: Callable[[Round], float]) -> float:
        return median(value(one) for one in mine)

    shared = middle(lambda r: r.many.rest)
    return (
        TITLES[name] + (" †" if shared > _FULL else ""),
        f"{middle(lambda r: _per_core(r.many)):,.0f}",
        _ratio(name, "fastapi", rounds),
        _ratio(name, "nginx", rounds),
        f"{middle(lambda r: r.many.cpu_us):,.0f}",
        f"{middle(lambda r: r.many.rate):,.0f}",
        f"{middle(lambda r: r.few.rate):,.0f}",
        f"{middle(lambda r: r.few.p50_ms):.2f} / {middle(lambda r: r.few.p99_ms):.2f}",
        _added(name, rounds),
        f"{middle(lambda r: r.streams.rate):,.0f}",
        f"{middle(lambda r: r.streams.cpu_us):,.0f}",
        f"{middle(lambda r: r.rss_mb):,.0f}",
        f"{middle(lambda r: r.many.contender):.0%} / {shared:.0%}",
    )


def _per_core(load: Load) -> float:
    """Calls per second of CPU: the measured rate when the contender fills its core, what it could do otherwise."""
    return 1e6 / load.cpu_us


def _ratio(name: str, to: str, rounds: Rounds) -> str:
    if to not in rounds:
        return "–"
    pairs = zip(rounds[name], rounds[to], strict=True)
    return f"{median(_per_core(mine.many) / _per_core(other.many) for mine, other in pairs):.2f}"


def _added(name: str, rounds: Rounds) -> str:
    if "direct" not in rounds or name == "direct":
        return "–"
    pairs = list(zip(rounds[name], rounds["direct"], strict=True))
    p50 = median(mine.few.p50_ms - base.few.p50_ms for mine, base in pairs)
    p99 = median(mine.few.p99_ms - base.few.p99_ms for mine, base in pairs)
    return f"{p50:.2f} / {p99:.2f}"


def _notes(rounds: Rounds, missing: Mapping[str, str], connections: int) -> list[str]:
    every = [one for mine in rounds.values() for one in mine]
    others = max((load.others for one in every for load in (one.many, one.few, one.streams)), default=0.0)
    count = max((len(mine) for mine in rounds.values()), default=0)
    method = (
        f"Medians of {count} interleaved rounds. Rates and streams of 50 chunks at {connections} connections, latencies"
        f" at {FEW_CONNECTIONS}. Own / shared core: how much of each was in use at {connections} connections."
    )
    notes = [method]
    if any(median(r.many.rest for r in mine) > _FULL for mine in rounds.values()):
        notes.append("† The shared core (upstream and callers) was the limit: the contender could answer more.")
    if others > _NOISY:
        notes.append(f"Other programs used up to {others:.0%} of a core meanwhile: rates and latencies are rough.")
    notes += [f"Not measured: {TITLES[name]} ({why})." for name, why in missing.items()]
    return [line for note in notes for line in (note, "")][:-1]
