"""Measure what a kept reply costs beside a forwarded call: ``python -m benchmarks.cache``.

One gateway with everything on and the cache in Redis; the same call in turns with `cache-control: no-store`, so that it
is forwarded, and without, so that it is answered from the cache. Prints a Markdown table of medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import guarded
from benchmarks.contenders import Running
from benchmarks.measure import FEW_CONNECTIONS, Bench, Load, load, wait_until_ready
from benchmarks.processes import free_port, pick_cores, python, running

MANY_CONNECTIONS = 64
CACHE = "cache: {exact: {ttl: 1h}}\n"


def main(argv: list[str]) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.cache", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    cores = pick_cores()
    os.sched_setaffinity(0, {cores.rest})
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmguard-bench-")))
        port = free_port()
        command = python("-m", "benchmarks.upstream", str(port))
        upstream = stack.enter_context(running(command, cores.rest, directory / "upstream.log", port=port))
        guard = stack.enter_context(guarded.started(cores, directory, port, more=CACHE))
        it = Running(guard.pid, guard.port, guard.key, (guard.valkey,))
        bench = Bench(cores, upstream, options.seconds, MANY_CONNECTIONS)
        wait_until_ready(bench, it)
        found = {kept: [_round(bench, it, kept=kept) for _ in range(options.rounds)] for kept in (False, True)}
    print("| | CPU µs a call | req/s | p50 ms at 8 connections |\n|---|---|---|---|")
    for kept, name in ((False, "forwarded"), (True, "answered from the cache")):
        many, few = zip(*found[kept], strict=True)
        cpu, rate = _median(many, "cpu_us"), _median(many, "rate")
        print(f"| {name} | {cpu:,.0f} | {rate:,.0f} | {_median(few, 'p50_ms'):.2f} |")
    ratio = _median([many for many, _ in found[True]], "cpu_us") / _median([many for many, _ in found[False]], "cpu_us")
    print(f"\nA hit costs {ratio:.2f} of a forwarded call's CPU.")
    return 0


def _round(bench: Bench, it: Running, *, kept: bool) -> tuple[Load, Load]:
    return (
        load(bench, it, MANY_CONNECTIONS, no_store=not kept),
        load(bench, it, FEW_CONNECTIONS, no_store=not kept),
    )


def _median(loads: list[Load] | tuple[Load, ...], figure: str) -> float:
    return statistics.median(getattr(one, figure) for one in loads)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
