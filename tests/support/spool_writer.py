"""A process for crash tests: writes calls to a spool and ships them, until it is killed.

Run as `python -m tests.support.spool_writer DIRECTORY URL`. Each line on standard input is a seed: a child is forked
that works until it dies, telling of records on standard output once they were appended. `end` follows its death.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from llmguard.core.records import Entry, VoidRecord
from llmguard.ledger import Ledger, Spool
from tests.support.ledger import PEPPER, entry, hold, partial, sent, settle


def say(*words: object) -> None:
    """One line, in one write."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def work(directory: Path, ledger: Ledger, seed: int) -> None:
    """Run calls of every kind for ever: three short ones at a time, beside long ones that outlive many segments."""
    rng = random.Random(seed)
    spool = Spool(directory, segment_bytes=16 * 1024, reserve_bytes=64 * 1024)
    ledger.shipper(spool, interval=0.002).start()
    running: list[Entry] = []

    def start() -> Entry:
        call = entry(rng, cost_nano=rng.randrange(1, 10_000), cost_input_nano=1)
        spool.append(hold(call))
        return call

    def send(call: Entry) -> None:
        spool.append(sent(call))
        say("sent", call.event_id)
        if rng.random() < 0.3:
            spool.append(partial(call, rng.randrange(100)))

    def end(call: Entry) -> None:
        spool.append(settle(call))
        say("done", call.event_id, call.cost_nano)

    while True:
        running.append(start())
        send(running[-1])
        if len(running) > 20:
            end(running.pop(rng.randrange(20)))
        short = [start() for _ in range(3)]
        spool.append(VoidRecord(short.pop().event_id))
        for call in short:
            send(call)
        for call in short:
            end(call)


def main() -> None:
    """Fork a child for each seed."""
    directory, url = Path(sys.argv[1]), sys.argv[2]
    ledger = Ledger(url, pepper=PEPPER)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            work(directory, ledger, int(line))
        say("pid", child)
        os.waitpid(child, 0)
        say("end")


if __name__ == "__main__":
    main()
