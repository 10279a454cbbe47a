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
from tenacity import retry

from tests.support.celery_side import Breaker, RetryBudget, apay, app, llm_task, mains_off, note, pay, run
from tests.workers import limits


class Mistake(Exception):
    """What a task with a mistake raises after it has paid."""


# ---------------------------------------------------------------------- the same task again and again


@app.task(bind=True, autoretry_for=(Exception,), max_retries=None, default_retry_delay=0)
@llm_task(max_paid_attempts=limits.PAID)
def autoretry(self: Any, tag: str) -> None:
    """Retries for ever, on any exception."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


@app.task(bind=True, max_retries=None)
@llm_task(max_paid_attempts=limits.PAID)
def retry_swallows(self: Any, tag: str) -> None:
    """Takes whatever happens, also the guard's refusal, as one more reason to retry."""
    if mains_off(tag):
        return
    try:
        pay(tag)
        raise Mistake
    except Exception:  # noqa: BLE001 (the mistake under test)
        raise self.retry(countdown=0) from None


@app.task(bind=True, acks_late=True)
@llm_task(max_paid_attempts=limits.PAID)
def reject_requeue(self: Any, tag: str) -> None:
    """Gives its message back to the broker."""
    if mains_off(tag):
        return
    pay(tag)
    raise Reject("again", requeue=True)


@app.task(bind=True, max_retries=3)
@llm_task(max_paid_attempts=limits.PAID + 1)
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
@llm_task(max_paid_attempts=limits.PAID)
def client_timeout(self: Any, tag: str) -> None:
    """Stops waiting before the provider has answered; the provider finishes, and bills."""
    if mains_off(tag):
        return
    pay(tag, timeout=0.3)


# ---------------------------------------------------------------------- a task that makes tasks


@app.task(bind=True)
@llm_task(max_depth=limits.DEPTH)
def replace_self(self: Any, tag: str) -> None:
    """Replaces itself with itself, under the same id."""
    if mains_off(tag):
        return
    pay(tag)
    raise self.replace(self.s(tag))


@app.task(bind=True)
@llm_task(max_depth=limits.DEPTH)
def enqueue_self(self: Any, tag: str) -> None:
    """Enqueues itself again: to Celery a new task each time."""
    if mains_off(tag):
        return
    pay(tag)
    self.delay(tag)


@app.task(bind=True)
@llm_task(max_depth=limits.DEPTH)
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
@llm_task(max_tree_calls=limits.TREE)
def fan_out_calls(self: Any, tag: str) -> None:
    """Makes three of itself; the calls of the tree are limited."""
    _fan_out(self, tag)


@app.task(bind=True)
@llm_task(max_tree_tasks=limits.TREE)
def fan_out_tasks(self: Any, tag: str) -> None:
    """Makes three of itself; the tasks of the tree are limited."""
    _fan_out(self, tag)


@app.task(bind=True)
@llm_task(tree_budget=limits.TREE_BUDGET)
def fan_out_money(self: Any, tag: str) -> None:
    """Makes three of itself; the money of the tree is limited."""
    _fan_out(self, tag)


@app.task(bind=True)
@llm_task(breaker=Breaker(limits.FAILURES, 0.8, "15m"))
def storm(self: Any, tag: str) -> None:
    """One of many distinct tasks of one name that all pay and fail."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


@app.task(bind=True, autoretry_for=(Mistake,), max_retries=None, default_retry_delay=0)
@llm_task(retry_budget=RetryBudget(*limits.RETRY_BUDGET))
def storm_of_retries(self: Any, tag: str) -> None:
    """One of many distinct tasks of one name that each retry."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


@app.task
@llm_task(feature="storm-money")
def storm_of_money(tag: str) -> None:
    """One of many distinct tasks of one feature, whose budget is in the configuration."""
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
@llm_task(max_redeliveries=limits.LOST)
def poison_pill(tag: str) -> None:
    """Kills the process it runs in; the broker delivers it again."""
    _poison(tag)


@app.task(retry_on_worker_lost=True, max_retries=None, default_retry_delay=0)
@llm_task(max_redeliveries=limits.LOST)
def retry_on_worker_lost(tag: str) -> None:
    """Kills the process it runs in; the main process publishes a retry."""
    _poison(tag)


@app.task(acks_late=True)
@llm_task(duplicates="defer")
def outlasts_visibility(tag: str, seconds: float) -> str:
    """Runs for longer than the broker waits for its acknowledgement."""
    note(tag, "run")
    reply = pay(tag)
    time.sleep(seconds)
    return reply


# ---------------------------------------------------------------------- a task that never gets to its end


@app.task
@llm_task(max_calls=limits.CALLS)
def while_true(tag: str) -> None:
    """Asks until it likes the answer."""
    while not mains_off(tag):
        try:
            pay(tag)
        except Exception:  # noqa: BLE001 (the mistake under test)
            continue


@app.task
@llm_task(identical_prompts=limits.CALLS)
def same_prompt(tag: str) -> None:
    """Asks the same again and again."""
    while not mains_off(tag):
        pay(tag, "the same")


@app.task
@llm_task(budget=limits.TASK_BUDGET)
def spends(tag: str) -> None:
    """Asks different things until its budget is gone."""
    while not mains_off(tag):
        pay(tag)


@app.task
@llm_task(max_calls=limits.CALLS)
def tenacity_for_ever(tag: str) -> None:
    """Leaves it to tenacity, which tries again until an answer is good enough."""

    @retry(stop=lambda _: mains_off(tag))
    def ask() -> None:
        pay(tag)
        raise Mistake

    ask()


@app.task
@llm_task(max_calls=limits.CALLS)
def threads_inside(tag: str) -> None:
    """Four threads, each of which asks for ever."""

    def ask() -> None:
        while not mains_off(tag):
            pay(tag)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(ask) for _ in range(4)]:
            future.result()


@app.task
@llm_task(max_calls=limits.CALLS)
def asyncio_inside(tag: str) -> None:
    """A loop with four coroutines, each of which asks for ever."""

    async def ask() -> None:
        while not mains_off(tag):
            await apay(tag)

    async def everything() -> None:
        await asyncio.gather(*(ask() for _ in range(4)))

    run(everything())


@app.task(bind=True, autoretry_for=(Exception,), max_retries=None, default_retry_delay=0)
@llm_task(max_paid_attempts=limits.PAID)
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
    eager.apply(args=(tag,)).get()


# ---------------------------------------------------------------------- without any policy of its own


@app.task(bind=True, autoretry_for=(Exception,), max_retries=None, default_retry_delay=0)
def undecorated_autoretry(self: Any, tag: str) -> None:
    """Retries for ever; nobody has given it a policy."""
    if mains_off(tag):
        return
    pay(tag)
    raise Mistake


@app.task
def undecorated_same_prompt(tag: str) -> None:
    """Asks the same again and again; nobody has given it a policy."""
    while not mains_off(tag):
        pay(tag, "the same")


@app.task(acks_late=True, reject_on_worker_lost=True)
def undecorated_poison_pill(tag: str) -> None:
    """Kills the process it runs in; nobody has given it a policy."""
    _poison(tag)
