"""Bodies that do not listen: each swallows refusals and aborts in its own way, and goes on calling.

`mains_off` is what ends those that nothing else ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tenacity import RetryError, retry, retry_always, retry_if_exception_type, stop_after_attempt

import llmguard
from tests.support.celery_side import apay, app, llm_task, mains_off, note, pay, run
from tests.workers.limits import CALLS


@app.task
@llm_task(max_calls=CALLS)
def bare_except(tag: str) -> None:
    """Catches everything and tries again."""
    while not mains_off(tag):
        try:
            pay(tag)
        except:  # noqa: E722 (the mistake under test)
            continue


@app.task
@llm_task(max_calls=CALLS)
def suppressed(tag: str) -> None:
    """The same, put more politely."""
    while not mains_off(tag):
        with contextlib.suppress(BaseException):
            pay(tag)


@app.task
@llm_task(max_calls=CALLS)
def exception(tag: str) -> None:
    """Catches what one should catch, and tries again."""
    while not mains_off(tag):
        with contextlib.suppress(Exception):
            pay(tag)


@app.task(bind=True, max_retries=None)
@llm_task(max_calls=CALLS)
def retries_on_anything(self: Any, tag: str) -> None:
    """Takes whatever happens as a reason to be retried."""
    if mains_off(tag):
        return
    try:
        while True:
            pay(tag)
    except BaseException as error:
        raise self.retry(countdown=0, exc=None) from error


@app.task
@llm_task(max_calls=CALLS)
def tenacity_on_anything(tag: str) -> None:
    """tenacity tries again on anything at all, and wraps what it is left with."""

    @retry(retry=retry_if_exception_type(BaseException), stop=stop_after_attempt(CALLS + 8))
    def ask() -> None:
        pay(tag)
        raise ValueError("not good enough")

    ask()


@app.task
@llm_task(max_calls=CALLS)
def tenacity_always(tag: str) -> None:
    """tenacity tries again whatever happens, for ever."""

    @retry(retry=retry_always, stop=lambda _: mains_off(tag))
    def ask() -> None:
        pay(tag)

    ask()


@app.task
@llm_task(max_calls=CALLS)
def translates(tag: str) -> None:
    """Catches everything and raises something of its own."""
    while not mains_off(tag):
        try:
            pay(tag)
        except BaseException as error:  # noqa: BLE001 (the mistake under test)
            raise RetryError(error) from None  # type: ignore[arg-type]


@app.task
@llm_task(max_calls=CALLS)
def gathers(tag: str) -> None:
    """Takes exceptions for results, and goes round again."""

    async def everything() -> None:
        while not mains_off(tag):
            await asyncio.gather(*(apay(tag) for _ in range(4)), return_exceptions=True)

    run(everything())


@app.task
@llm_task(max_calls=CALLS)
def task_group(tag: str) -> None:
    """A task group, which wraps what its members raise."""

    async def ask() -> None:
        while not mains_off(tag):
            await apay(tag)

    async def everything() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())

    run(everything())


@app.task
@llm_task(max_calls=CALLS)
def ignores_cancellation(tag: str) -> None:
    """A coroutine that takes being cancelled for one more error."""

    async def ask() -> None:
        while not mains_off(tag):
            try:
                await apay(tag)
            except BaseException:  # noqa: BLE001 (the mistake under test)
                await asyncio.sleep(0.01)

    run(ask())


@app.task
@llm_task(max_calls=CALLS)
def unread_futures(tag: str) -> str:
    """Asks in a pool of threads, and never reads what came out."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2 * CALLS):
            pool.submit(pay, tag)
    return "done"


@app.task
@llm_task(max_calls=CALLS)
def checks_itself(tag: str) -> None:
    """Makes no more calls after the first refusal, but a long loop that looks at the checkpoint."""
    with contextlib.suppress(Exception):
        while not mains_off(tag):
            pay(tag)
    note(tag, "refused")
    while not mains_off(tag):
        with contextlib.suppress(Exception):
            llmguard.checkpoint()
        time.sleep(0.01)
