"""What tasks under test are made of. Imported by the worker processes that :mod:`tests.support.celery_rig` starts.

A module of tasks begins so::

    from tests.support.celery_side import app, llm_task, mains_off, note, pay

    @app.task(bind=True, autoretry_for=(Exception,), max_retries=None)
    @llm_task(max_paid_attempts=3)
    def looping(self, tag):
        if mains_off(tag):
            return
        pay(tag)
        raise ValueError("a mistake")

The same module runs stock and guarded: stock, :func:`llm_task` does nothing. The first argument of every task is its
tag. Every task notes ``on_failure`` when Celery calls that; decorated ones belong to team ``rig``, feature ``rig``.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import openai
from celery import Celery, Task

from tests.support.celery_upstream import TAG

HOME = Path(os.environ["RIG_HOME"])
PROVIDER = os.environ["RIG_PROVIDER"]
GUARDED = os.environ["RIG_GUARDED"] == "1"


class Noted(Task):
    """What tasks are by default here: their `on_failure` leaves a note."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by Celery for a task that failed."""
        note(args[0], "on_failure eagerly" if self.request.is_eager else "on_failure")


app = Celery("rig", broker=os.environ["RIG_BROKER"], backend=os.environ["RIG_BACKEND"], task_cls=Noted)
app.conf.update(
    task_default_queue=os.environ["RIG_QUEUE"],
    result_extended=True,
    task_track_started=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_transport_options=json.loads(os.environ["RIG_TRANSPORT"]),
)

if GUARDED:
    import llmguard
    from llmguard.core.runaway import Breaker as Breaker  # noqa: PLC0414 (re-exported to modules of tasks)
    from llmguard.core.runaway import RetryBudget as RetryBudget  # noqa: PLC0414
    from llmguard.integrations import celery as guarded

    llmguard.configure(os.environ["LLMGUARD_CONFIG"])
    guarded.install(app)
else:
    Breaker = RetryBudget = lambda *_args, **_options: None


def llm_task(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The guard's decorator; nothing at all in a stock worker."""
    if not GUARDED:
        return lambda function: function
    return cast("Callable[..., Any]", guarded.llm_task(**{"team": "rig", "feature": "rig"} | options))


def mains_off(tag: str) -> bool:
    """Whether this tag has paid as much as any test lets it; no task makes a call after that."""
    return (HOME / "mains" / tag).exists()


def note(tag: str, what: str) -> None:
    """Leave a line for the test: ``errback``, ``run``, whatever is worth counting."""
    with (HOME / "notes" / tag).open("a") as notes:
        notes.write(what + "\n")


def pay(tag: str, prompt: str | None = None, *, timeout: float = 30.0, **options: Any) -> str:
    """Make one call with the OpenAI SDK, billed under ``tag``; a prompt of its own unless given. Returns the reply."""
    reply = _client(os.getpid()).chat.completions.create(**_call(tag, prompt, options), timeout=timeout)
    return reply.choices[0].message.content or ""


async def apay(tag: str, prompt: str | None = None, **options: Any) -> str:
    """:func:`pay` in asyncio, with a client of its own."""
    async with openai.AsyncOpenAI(base_url=PROVIDER, api_key="rig", max_retries=0) as client:
        reply = await client.chat.completions.create(**_call(tag, prompt, options))
    return reply.choices[0].message.content or ""


def run(coroutine: Any) -> Any:
    """Run a coroutine in a loop of its own, as tasks that use asyncio do."""
    return asyncio.run(coroutine)


@lru_cache
def _client(pid: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=PROVIDER, api_key="rig", max_retries=0)


def _call(tag: str, prompt: str | None, options: dict[str, Any]) -> dict[str, Any]:
    content = f"{tag} {uuid.uuid4()}" if prompt is None else prompt
    options.setdefault("model", "rig")
    options.setdefault("max_tokens", 100)
    return {"messages": [{"role": "user", "content": content}], "extra_headers": {TAG: tag}, **options}


@app.task(name="rig.ordinary")
@llm_task(feature="ordinary")
def ordinary(tag: str) -> str:
    """A task with nothing wrong with it: one call."""
    return pay(tag)


@app.task(name="rig.errback")
def errback(_task_id: str, *, tag: str) -> None:
    """An error callback of the kind that is published as a message."""
    note(tag, "errback")
