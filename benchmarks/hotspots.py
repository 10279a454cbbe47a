"""Where llmguard's time goes under load: ``python -m benchmarks.hotspots``.

Samples with py-spy where it is installed (it hardly disturbs what it looks at), else runs under cProfile, which
exaggerates functions that are called often. Prints one line per function, those with most time of their own first. The
event loop's own C code appears as the function that runs the loop, unless ``--native`` looks into it; a thread that
waits for the interpreter lock counts as busy, unless ``--gil`` is given.
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import guarded
from benchmarks.contenders import Running
from benchmarks.measure import WARM_SECONDS, Bench, offer_load, wait_until_ready
from benchmarks.processes import Cores, Failed, free_port, pick_cores, python, running

SAMPLES_PER_SECOND = 400


def main(argv: list[str]) -> int:
    """Profile one run; 0 when it went through, 1 when a process failed."""
    options = _options(argv)
    cores = pick_cores()
    os.sched_setaffinity(0, {cores.rest})
    with tempfile.TemporaryDirectory(prefix="llmguard-bench-") as directory:
        try:
            _profile(options, cores, Path(directory))
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _profile(options: argparse.Namespace, cores: Cores, directory: Path) -> None:
    spy = shutil.which("py-spy", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    output, port = directory / "profile", free_port()
    under = () if spy else ("-m", "cProfile", "-o", str(output))
    command = python("-m", "benchmarks.upstream", str(port))
    with (
        running(command, cores.rest, directory / "upstream.log", port=port) as upstream,
        guarded.started(cores, directory, port, under=under) as guard,
    ):
        bench = Bench(cores, upstream, options.seconds, options.connections)
        watch = [spy, "record", "--output", str(output), *_ways(options)] if spy else None
        _load(bench, Running(guard.pid, guard.port, guard.key), options.stream, watch)
    if spy:
        _print_samples(output, options.top)
    else:
        _print_calls(output, options.top)


def _ways(options: argparse.Namespace) -> list[str]:
    ways = ["--native" if options.native else "--nonblocking"]  # C frames can only be read while the process stands
    return [*ways, "--gil"] if options.gil else ways


def _load(bench: Bench, it: Running, stream: bool, watch: list[str] | None) -> None:
    """Warm up and load; ``watch`` is the sampler's command line, run beside the second load."""
    wait_until_ready(bench, it)
    offer_load(bench, it, bench.connections, WARM_SECONDS, stream=stream)
    sampling = _sample(watch, it.pid, bench.seconds) if watch else None
    result = offer_load(bench, it, bench.connections, bench.seconds, stream=stream)
    print(f"{result['ok'] / result['seconds']:,.0f} calls a second while watched")
    if sampling and sampling.wait(bench.seconds + 60) != 0:
        raise Failed("py-spy failed (it needs the right to read another process's memory)")


def _sample(watch: list[str], pid: int, seconds: float) -> subprocess.Popen[bytes]:
    command = [*watch, "--pid", str(pid), "--format", "raw"]
    command += ["--duration", str(max(1, round(seconds))), "--rate", str(SAMPLES_PER_SECOND)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _print_samples(output: Path, top: int) -> None:
    """Sum up collapsed stacks (`outer (file:line);…;inner (file:line) count`) per function."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        functions = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        own[functions[-1]] += int(count)
        for function in set(functions):
            total[function] += int(count)
    samples = sum(own.values())
    print(f"{samples} samples\n  own %  all %  function")
    for function, hits in own.most_common(top):
        print(f"{hits / samples:7.1%}{total[function] / samples:7.1%}  {function}")


def _print_calls(output: Path, top: int) -> None:
    if not output.exists():
        raise Failed("llmguard did not return on SIGTERM, so cProfile wrote nothing")
    pstats.Stats(str(output)).strip_dirs().sort_stats("tottime").print_stats(top)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.hotspots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--stream", action="store_true", help="streams of 50 chunks instead of whole replies")
    parser.add_argument("--native", action="store_true", help="also C functions (py-spy only)")
    parser.add_argument("--gil", action="store_true", help="only threads holding the interpreter lock (py-spy only)")
    parser.add_argument("--top", type=int, default=40, help="lines printed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
