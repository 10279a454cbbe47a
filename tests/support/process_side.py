"""What tests of in-process calls run in processes of their own: `python -m tests.support.process_side MODE CONFIG`.

Each mode prints one line of JSON when it has something to say, and ends by itself or is ended by the test.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

if sys.argv[1:2] == ["gevent"]:
    from gevent import monkey

    monkey.patch_all()

from llmguard.core.call import Caller
from llmguard.core.decision import Admit
from llmguard.guard import Guard
from llmguard.runtime.context import context, current
from tests.support.process_calls import Process


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def calls(process: Process, number: int, team: str) -> int:
    """Make so many calls, and count those that were admitted."""
    with context(team=team):
        return sum(isinstance(process.call(current()), Admit) for _ in range(number))


def prefork(process: Process) -> None:
    """A parent that makes calls in threads all the time, forks three times and goes on; children use two threads."""
    # A module that a thread is importing while its process forks can never be imported in the child.
    stop, made = threading.Event(), [calls(process, 1, "parent"), 0]

    def busy(index: int) -> None:
        while not stop.is_set():
            made[index] += calls(process, 1, "parent")

    busies = [threading.Thread(target=busy, args=(index,)) for index in range(2)]
    for thread in busies:
        thread.start()
    time.sleep(0.1)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(child_work(process))
        children.append(child)
        time.sleep(0.05)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    for thread in busies:
        thread.join()
    process.guard.close()
    say(statuses=statuses, parent=sum(made))


def child_work(process: Process) -> int:
    admitted = [0, 0]

    def work(index: int) -> None:
        admitted[index] = calls(process, 25, "child")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process.guard.close()
    return 0 if sum(admitted) == 50 else 1


def victim(process: Process) -> None:
    """Leaves one call sent, one held, and waits to be killed."""
    calls(process, 5, "victim")
    service = process.service
    sent, held = (process.exchange(Caller(team="victim")) for _ in range(2))
    for x in (sent, held):
        assert isinstance(service.run(x.open(x.now)), Admit)
    service.perform(sent.dispatch())
    say(estimate=sent.estimate_nano)
    time.sleep(60)


def leaver(process: Process) -> None:
    """Ends without closing anything."""
    say(admitted=calls(process, 3, "leaver"))


def gevent(process: Process) -> None:
    """Twenty greenlets, made as threads, and what keeps running while they wait."""
    admitted = [0] * 20

    def work(index: int) -> None:
        admitted[index] = calls(process, 5, "green")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(thread.name for thread in threading.enumerate())
    process.guard.close()
    say(admitted=sum(admitted), threads=[name for name in names if name.startswith("llmguard")])


if __name__ == "__main__":
    mode, configuration = sys.argv[1:]
    globals()[mode](Process(Guard(json.loads(configuration))))
