"""Every way from one task to the next call. Loaded by :mod:`tests.workers.test_attribution`.

Each task named in :mod:`tests.workers.paths` starts from a message that a web application has sent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

from celery import chain, chord, group

from tests.support.celery_side import apay, app, llm_task, pay, run


@app.task
def leaf(tag: str, *_: Any) -> None:
    """One call."""
    pay(tag)


@app.task
def called_errback(request: Any, error: Any, trace: Any, tag: str = "") -> None:
    """An error callback that Celery calls like a function, in whichever process sees the error."""
    pay(tag)


@app.task
def fails(tag: str) -> None:
    raise ValueError(tag)


@app.task
def sleeps(tag: str) -> None:
    time.sleep(60)


@app.task
def dies(tag: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _errbacks(tag: str) -> list[Any]:
    return [leaf.si(tag), called_errback.s(tag=tag)]


@app.task
def call(tag: str) -> None:
    pay(tag)


@app.task
def child(tag: str) -> None:
    pay(tag)
    leaf.delay(tag)


@app.task
def chained(tag: str) -> None:
    pay(tag)
    chain(leaf.si(tag) for _ in range(3)).delay()


@app.task
def grouped(tag: str) -> None:
    pay(tag)
    group(leaf.si(tag) for _ in range(3)).delay()


@app.task
def chorded(tag: str) -> None:
    pay(tag)
    chord([leaf.si(tag), leaf.si(tag)], leaf.si(tag)).delay()


@app.task
def linked(tag: str) -> None:
    pay(tag)
    leaf.apply_async((tag,), link=leaf.si(tag))


@app.task
def mapped(tag: str) -> None:
    pay(tag)
    leaf.map([tag] * 3).delay()


@app.task
def errbacks(tag: str) -> None:
    pay(tag)
    fails.apply_async((tag,), link_error=_errbacks(tag))


@app.task
def errbacks_after_time_limit(tag: str) -> None:
    pay(tag)
    sleeps.apply_async((tag,), time_limit=0.5, link_error=_errbacks(tag))


@app.task
def errbacks_after_loss(tag: str) -> None:
    pay(tag)
    dies.apply_async((tag,), link_error=_errbacks(tag))


@app.task
def chord_errback_after_loss(tag: str) -> None:
    pay(tag)
    chord([dies.si(tag)], leaf.si(tag).on_error(leaf.si(tag))).delay()


@app.task(bind=True, acks_late=True, retry_on_worker_lost=True, default_retry_delay=0)
def lost_and_retried(self: Any, tag: str) -> None:
    """Celery's main process publishes the retry."""
    pay(tag)
    if self.request.retries == 0:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, max_retries=2)
def retried(self: Any, tag: str) -> None:
    pay(tag)
    if self.request.retries < 2:
        raise self.retry(countdown=0)


@app.task(bind=True)
def replaced(self: Any, tag: str) -> None:
    pay(tag)
    raise self.replace(leaf.si(tag))


@app.task
def in_thread(tag: str) -> None:
    pay(tag)
    thread = Thread(target=pay, args=(tag,))
    thread.start()
    thread.join()


@app.task
def in_pool(tag: str) -> None:
    pay(tag)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pay, [tag] * 4))


@app.task
def in_to_thread(tag: str) -> None:
    pay(tag)
    run(asyncio.to_thread(pay, tag))


@app.task
def gathered(tag: str) -> None:
    async def three() -> None:
        await asyncio.gather(*(apay(tag) for _ in range(3)))

    pay(tag)
    run(three())


@app.task
def child_from_thread(tag: str) -> None:
    pay(tag)
    thread = Thread(target=leaf.delay, args=(tag,))
    thread.start()
    thread.join()


@app.task
@llm_task(team="growth", feature="summaries")
def of_growth(tag: str) -> None:
    """A task that says itself whom it is for."""
    pay(tag)
