"""Every way a background job is known to run away, each as one small task with the policy that must stop it.

The first argument is the row's tag. `mains_off` is what ends a task that nothing else ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

from celery.exceptions import Reject
from openai import APITimeoutError
from tenacity import retry, retry_always, stop_after_delay

from tests.support.celery_side import apay, app, llm_task, mains_off, note, pay, run

PAID = 3
CALLS = 8
DEPTH = 6
TREE = 10
LOST = 1


class Mistake(Exception):
    """What a task with a mistake raises after it has paid."""


# ---------------------------------------------------------------------- the same task again and again


@app.task(bind=True, autoretry_for=(Exception,), max_retries=None, default_retry_delay=0)
@llm_task(max_paid_attempts=PAID)
def autoretry(self: Any, tag: str) -> None:
    """Retries for ever, on any exception."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


@app.task(bind=True, max_retries=None)
@llm_task(max_paid_attempts=PAID)
def retry_swallows(self: Any, tag: str) -> None:
    """Takes whatever happens, also the guard's refusal, as one more reason to retry."""
    if mains_off(tag):
        return
    try:
        pay(tag)
        raise Mistake
    except Exception:
        raise self.retry(countdown=0) from None


@app.task(bind=True, acks_late=True)
@llm_task(max_paid_attempts=PAID)
def reject_requeue(self: Any, tag: str) -> None:
    """Gives its message back to the broker."""
    if mains_off(tag):
        return
    pay(tag)
    raise Reject("again", requeue=True)


@app.task(bind=True, max_retries=3)
@llm_task(max_paid_attempts=PAID + 1)
def double_retry(self: Any, tag: str) -> None:
    """Publishes a retry, goes on, and publishes another."""
    if mains_off(tag):
        return
    pay(tag)
    if self.request.retries < self.max_retries:
        self.retry(throw=False, countdown=0)
        self.retry(throw=False, countdown=0)
    raise Mistake


@app.task(bind=True, autoretry_for=(APITimeoutError,), max_retries=None, default_retry_delay=0)
@llm_task(max_paid_attempts=PAID)
def client_timeout(self: Any, tag: str) -> None:
    """Stops waiting before the provider has answered; the provider finishes, and bills."""
    if mains_off(tag):
        return
    pay(tag, timeout=0.15)


# ---------------------------------------------------------------------- a task that makes tasks


@app.task(bind=True)
@llm_task(max_depth=DEPTH)
def replace_self(self: Any, tag: str) -> None:
    """Replaces itself with itself, under the same id."""
    if mains_off(tag):
        return
    pay(tag)
    raise self.replace(self.s(tag))


@app.task(bind=True)
@llm_task(max_depth=DEPTH)
def enqueue_self(self: Any, tag: str) -> None:
    """Enqueues itself again: to Celery a new task each time."""
    if mains_off(tag):
        return
    pay(tag)
    self.delay(tag)


@app.task(bind=True)
@llm_task(max_depth=DEPTH)
def enqueue_from_thread(self: Any, tag: str) -> None:
    """The same from a thread, where Celery sees no parent."""
    if mains_off(tag):
        return
    pay(tag)
    thread = Thread(target=self.delay, args=(tag,))
    thread.start()
    thread.join()


def _fan_out(self: Any, tag: str) -> None:
    if mains_off(tag):
        return
    pay(tag)
    for _ in range(3):
        self.delay(tag)


@app.task(bind=True)
@llm_task(max_tree_calls=TREE)
def fan_out_calls(self: Any, tag: str) -> None:
    """Makes three of itself; the calls of the tree are limited."""
    _fan_out(self, tag)


@app.task(bind=True)
@llm_task(max_tree_tasks=TREE)
def fan_out_tasks(self: Any, tag: str) -> None:
    """Makes three of itself; the tasks of the tree are limited."""
    _fan_out(self, tag)


@app.task(bind=True)
@llm_task(tree_budget="$0.0905")
def fan_out_money(self: Any, tag: str) -> None:
    """Makes three of itself; the money of the tree is limited: with the overshoot of a tenth, nine calls."""
    _fan_out(self, tag)


@app.task(bind=True)
@llm_task(breaker={"failures": 5, "ratio": 0.8, "cooldown": "15m"}, max_paid_attempts=1)
def storm(self: Any, tag: str) -> None:
    """One of many distinct tasks of one name that all pay and fail."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


# ---------------------------------------------------------------------- a task whose worker does not survive it


def _poison(tag: str) -> None:
    if mains_off(tag):
        return
    note(tag, "run")
    pay(tag)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True)
@llm_task(max_redeliveries=LOST)
def poison_pill(tag: str) -> None:
    """Kills the process it runs in; the broker delivers it again."""
    _poison(tag)


@app.task(retry_on_worker_lost=True, max_retries=None, default_retry_delay=0)
@llm_task(max_redeliveries=LOST)
def retry_on_worker_lost(tag: str) -> None:
    """Kills the process it runs in; the main process publishes a retry."""
    _poison(tag)


@app.task(acks_late=True)
@llm_task()
def outlasts_visibility(tag: str, seconds: float) -> str:
    """Runs for longer than the broker waits for its acknowledgement."""
    note(tag, "run")
    reply = pay(tag)
    time.sleep(seconds)
    return reply


# ---------------------------------------------------------------------- a task that never gets to its end


@app.task
@llm_task(max_calls=CALLS)
def while_true(tag: str) -> None:
    """Asks until it likes the answer."""
    while not mains_off(tag):
        try:
            pay(tag)
        except Exception:
            continue


@app.task
@llm_task(identical_prompts=CALLS)
def same_prompt(tag: str) -> None:
    """Asks the same again and again."""
    while not mains_off(tag):
        pay(tag, "the same")


@app.task
@llm_task(budget="$0.0705")
def spends(tag: str) -> None:
    """Asks different things until its budget is gone: with the overshoot of a tenth, seven calls."""
    while not mains_off(tag):
        pay(tag)


@app.task
@llm_task(max_calls=CALLS)
def tenacity_for_ever(tag: str) -> None:
    """Leaves it to tenacity, which tries again whatever happens."""

    @retry(retry=retry_always, stop=lambda state: mains_off(tag) or stop_after_delay(60)(state))
    def ask() -> None:
        pay(tag)

    ask()


@app.task
@llm_task(max_calls=CALLS)
def threads_inside(tag: str) -> None:
    """Four threads, each of which asks for ever."""

    def ask() -> None:
        while not mains_off(tag):
            pay(tag)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(ask) for _ in range(4)]:
            future.result()


@app.task
@llm_task(max_calls=CALLS)
def asyncio_inside(tag: str) -> None:
    """A loop with four coroutines, each of which asks for ever."""

    async def ask() -> None:
        while not mains_off(tag):
            await apay(tag)

    async def everything() -> None:
        await asyncio.gather(*(ask() for _ in range(4)))

    run(everything())


@app.task(bind=True, autoretry_for=(Exception,), max_retries=None, default_retry_delay=0)
@llm_task(max_paid_attempts=PAID)
def eager(self: Any, tag: str) -> None:
    """Retries for ever within the process that called it."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


@app.task
@llm_task()
def runs_eagerly(tag: str) -> None:
    """Calls another task in its own process, as tests and scripts do."""
    eager.apply(args=(tag,))
