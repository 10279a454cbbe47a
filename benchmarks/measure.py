"""One round with one contender: three loads, and what each cost on either core."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from dataclasses import dataclass

from benchmarks.contenders import Running
from benchmarks.load import DRAIN_SECONDS, Summary
from benchmarks.processes import PROJECT, Cores, Failed, environment, python
from benchmarks.procfs import busy_seconds, cpu_seconds, resident_bytes

FEW_CONNECTIONS = 8
WARM_SECONDS = 1.0
READY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of callers saw, and the share of a core each side used meanwhile (1.0 = all of it).

    ``cpu_us`` is the contender's user and system time per call, in microseconds. ``others`` is what processes that do
    not belong to the benchmark used of both cores: above a few hundredths the rates are not to be trusted.
    """

    calls: int
    rate: float
    p50_ms: float
    p99_ms: float
    reads_per_call: float
    cpu_us: float
    contender: float
    rest: float
    others: float


@dataclass(frozen=True, slots=True)
class Round:
    """One contender, once: many callers, few callers, streams. ``calls`` is every one it answered, warm-up too."""

    many: Load
    few: Load
    streams: Load
    rss_mb: float
    calls: int


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure: the cores, the upstream in front of which contenders stand, and the size of the loads."""

    cores: Cores
    upstream: int
    seconds: float
    connections: int


def measure(bench: Bench, it: Running) -> Round:
    """Warm the contender up, load it, and compare its books with the calls it answered."""
    calls = wait_until_ready(bench, it)
    for stream in (False, True):
        calls += offer_load(bench, it, bench.connections, WARM_SECONDS, stream=stream)["ok"]
    many = load(bench, it, bench.connections)
    few = load(bench, it, FEW_CONNECTIONS)
    streams = load(bench, it, bench.connections, stream=True)
    rss = resident_bytes(it.pid)
    calls += many.calls + few.calls + streams.calls
    it.check(calls)
    return Round(many, few, streams, rss / 1e6, calls)


def wait_until_ready(bench: Bench, it: Running) -> int:
    """Repeat a single call until it is answered (a guard may still be filling its store); the calls answered: 1."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if offer_load(bench, it, 1, 1.0, calls=1)["ok"]:
            return 1
        time.sleep(0.5)
    raise Failed(f"no call was answered within {READY_SECONDS} s")


def load(bench: Bench, it: Running, connections: int, *, stream: bool = False, no_store: bool = False) -> Load:
    """Offer a load and see what it cost."""
    before, started = _used(bench, it), time.monotonic()
    result = offer_load(bench, it, connections, bench.seconds, stream=stream, no_store=no_store)
    window = time.monotonic() - started
    contender, servers, callers, everyone = (now - then for now, then in zip(_used(bench, it), before, strict=True))
    calls, seconds = result["ok"], result["seconds"]
    if not calls or result["refused"]:
        raise Failed(f"{calls} calls answered, {result['refused']} refused, the last with {result['refusal']}")
    return Load(
        calls=calls,
        rate=calls / seconds,
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        reads_per_call=result["reads"] / calls,
        cpu_us=contender / calls * 1e6,
        contender=contender / seconds,
        rest=(servers + result["cpu_seconds"]) / seconds,
        others=max(everyone - contender - servers - callers, 0.0) / window,
    )


def offer_load(
    bench: Bench,
    it: Running,
    connections: int,
    seconds: float,
    *,
    calls: int = 2_000_000,
    stream: bool = False,
    no_store: bool = False,
) -> Summary:
    """Run the callers on the shared core and return their summary (see :mod:`benchmarks.load`).

    Raises :class:`Failed` when a connection broke or a reply was not the expected one.
    """
    command = python("-m", "benchmarks.load", "--port", str(it.port), "--authorization", it.authorization)
    command += ["--connections", str(connections), "--seconds", str(seconds), "--calls", str(calls)]
    command += ["--stream"] if stream else []
    command += ["--no-store"] if no_store else []
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds + 2 * DRAIN_SECONDS,
        preexec_fn=lambda: os.sched_setaffinity(0, {bench.cores.rest}),
    )
    if done.returncode != 0:
        raise Failed(f"the callers failed:\n{done.stderr[-2000:]}")
    summary: Summary = json.loads(done.stdout)
    return summary


def _used(bench: Bench, it: Running) -> tuple[float, float, float, float]:
    """CPU seconds so far of the contender, the servers on the shared core, ended callers, and anyone on both cores."""
    servers = sum(map(cpu_seconds, (bench.upstream, *it.helpers)))
    callers = resource.getrusage(resource.RUSAGE_CHILDREN)
    everyone = busy_seconds({bench.cores.contender, bench.cores.rest})
    return cpu_seconds(it.pid), servers, callers.ru_utime + callers.ru_stime, everyone
