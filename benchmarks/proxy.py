"""Measure llmguard beside nginx and a hand-written proxy: ``python -m benchmarks.proxy`` (``make bench``).

Starts a provider that costs next to nothing, then each contender in turn on a core of its own, loads it over loopback
and prints a Markdown table. README.md says how, and what the numbers mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Place, Unavailable
from benchmarks.guarded import WrongBooks
from benchmarks.measure import Bench, Round, measure
from benchmarks.processes import PROJECT, Failed, free_port, pick_cores, python, running
from benchmarks.procfs import cpu_model
from benchmarks.table import render

README = PROJECT / "benchmarks" / "README.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def main(argv: list[str]) -> int:
    """Run; 0 when all that could be measured was, 1 when a contender failed or its books were wrong."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rounds: dict[str, list[Round]] = {}
    missing: dict[str, str] = {}
    try:
        _run(options, rounds, missing)
    except (Failed, WrongBooks) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything started was ended", file=sys.stderr)
        return 130
    table = _machine() + "\n\n" + render(rounds, missing, options.connections)
    print(table)
    if options.json:
        report = {
            "machine": _machine(),
            "missing": missing,
            "rounds": {n: list(map(asdict, r)) for n, r in rounds.items()},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.write:
        _write(table)
    return 0


def _run(options: argparse.Namespace, rounds: dict[str, list[Round]], missing: dict[str, str]) -> None:
    cores = pick_cores()
    if not cores.alone:
        print("only one core: contender, upstream and callers share it, so only ratios mean anything", file=sys.stderr)
    os.sched_setaffinity(0, {cores.rest})
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmguard-bench-")))
        port = free_port()
        command = python("-m", "benchmarks.upstream", str(port))
        upstream = stack.enter_context(running(command, cores.rest, directory / "upstream.log", port=port))
        bench = Bench(cores, upstream, options.seconds, options.connections)
        for number in range(1, options.rounds + 1):
            for name in options.only:
                if name in missing:
                    continue
                own = directory / f"{name}-{number}"
                own.mkdir()
                print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                try:
                    rounds.setdefault(name, []).append(_one(bench, name, Place(cores, own, port)))
                except Unavailable as why:
                    del rounds[name]
                    missing[name] = str(why)


def _one(bench: Bench, name: str, place: Place) -> Round:
    with CONTENDERS[name](place) as it:
        return measure(bench, it)


def _machine() -> str:
    packages = ("llmguard-gateway", "uvicorn", "fastapi", "httpx")
    versions = [f"{name} {_version(name)}" for name in packages]
    return f"{cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}; {', '.join(versions)}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _write(table: str) -> None:
    """Put the table between the two marks in README.md."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.proxy", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of each load (three per contender and round)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=list(CONTENDERS), type=_names, help=f"some of {','.join(CONTENDERS)}")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's raw numbers")
    parser.add_argument("--write", action="store_true", help="also put the table into benchmarks/README.md")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - CONTENDERS.keys():
        raise argparse.ArgumentTypeError(f"no such contender: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
