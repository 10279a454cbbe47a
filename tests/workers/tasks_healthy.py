"""Work that looks like trouble and is none, and work that is interrupted. A late RETRY may overwrite what came after it
in the result back end, with the guard or without: hence a short delay before each retry."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from celery import chain

import llmguard
from tests.support.celery_side import HOME, app, llm_task, note, pay
from tests.workers.limits import BATCH, CHAIN, PARALLEL, SAMPLES, VAIN


class Unlucky(Exception):
    """Not this time."""


@app.task(autoretry_for=(openai.InternalServerError,), max_retries=None, default_retry_delay=0.2)
@llm_task()
def through_errors(tag: str) -> str:
    """Retries until the provider is well again; nothing of that is billed."""
    return pay(tag)


@app.task(bind=True, max_retries=10, default_retry_delay=0.2)
@llm_task()
def sixth_time_lucky(self: Any, tag: str) -> str:
    """Says that it may be retried ten times, pays six times in vain, and then succeeds."""
    reply = pay(tag)
    if self.request.retries < VAIN:
        raise self.retry(exc=Unlucky())
    return reply


@app.task
@llm_task()
def best_of(tag: str) -> int:
    """Asks the same twenty times, and means it."""
    with llmguard.context(samples=SAMPLES):
        return len([pay(tag, "Which is best?") for _ in range(SAMPLES)])


@app.task
@llm_task(max_calls=BATCH, budget="$50")
def batch(tag: str) -> int:
    """Two thousand different calls, with the limits raised for them."""
    return _batch(tag)


@app.task
def undecorated_batch(tag: str) -> int:
    """The same by a task without a policy, whose calls know whom they are for."""
    with llmguard.context(team="rig", feature="batch"):
        return _batch(tag)


def _batch(tag: str) -> int:
    with ThreadPoolExecutor(4) as pool:
        return len(list(pool.map(lambda _: pay(tag), range(BATCH))))


@app.task
@llm_task()
def steps(tag: str) -> str:
    """Starts a chain of twenty-six steps."""
    return str(chain(*(step.si(tag) for _ in range(CHAIN))).apply_async().id)


@app.task
@llm_task()
def step(tag: str) -> str:
    """One step of it."""
    return pay(tag)


@app.task
@llm_task(budget="$2")
def parallel(tag: str) -> int:
    """Twenty ordinary calls at once that name no `max_tokens`, under a budget of $2."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        ask = [pool.submit(pay, tag, model="gpt-4o", max_tokens=openai.omit) for _ in range(PARALLEL)]
        return len([future.result() for future in ask])


def _of(team: str) -> Any:
    @app.task(name=f"ordinary.{team}")
    @llm_task(team=team, feature=f"{team}-feature")
    def ordinary(tag: str) -> str:
        return pay(tag)

    return ordinary


TEAMS = {team: _of(team) for team in ("ant", "bee", "cat", "dog", "eel")}


# ---------------------------------------------------------------------- work that is interrupted


@app.task(bind=True, autoretry_for=(Unlucky,), max_retries=None, default_retry_delay=1)
@llm_task(max_paid_attempts=4)
def until_mended(self: Any, tag: str) -> str:
    """Pays and fails, until somebody mends it."""
    note(tag, "run")
    reply = pay(tag)
    if not (HOME / "mended").exists():
        raise Unlucky
    return reply


@app.task
@llm_task()
def dies_after_the_reply(tag: str) -> None:
    """Loses its process as soon as it has the reply."""
    pay(tag)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
@llm_task()
def waits_for_the_reply(tag: str) -> None:
    """Says which process waits for a reply, so that it can be killed."""
    note(tag, str(os.getpid()))
    pay(tag)


def _timed(tag: str) -> tuple[str, float]:
    began = time.monotonic()
    try:
        outcome = pay(tag)
    except openai.APIStatusError as error:
        outcome = str(error.code)
    return outcome, time.monotonic() - began


@app.task
@llm_task()
def timed(tag: str) -> tuple[str, float]:
    """One call: what came of it, and how long that took."""
    return _timed(tag)


@app.task
@llm_task(feature="denied")
def timed_under_deny(tag: str) -> tuple[str, float]:
    """The same under a budget that lets nothing go while the store is away."""
    return _timed(tag)
