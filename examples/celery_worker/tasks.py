"""What the worker does with documents. One of the tasks is deliberately broken."""

import json
import os
from functools import lru_cache

import openai
from app import GUARDED, app
from celery import chord

if GUARDED:
    from llmguard.integrations.celery import llm_task
else:

    def llm_task(**_options):
        """Without the guard there are no policies."""
        return lambda function: function


MODEL = os.environ.get("MODEL", "gpt-4o")


@lru_cache
def client() -> openai.OpenAI:
    """One client for each process; key and address come from OPENAI_API_KEY and OPENAI_BASE_URL."""
    return openai.OpenAI()


def ask(prompt: str) -> str:
    """One question to the model."""
    messages = [{"role": "user", "content": prompt}]
    reply = client().chat.completions.create(model=MODEL, messages=messages, max_tokens=200)
    return reply.choices[0].message.content or ""


@app.task(autoretry_for=(openai.RateLimitError, openai.APIConnectionError), retry_backoff=True, max_retries=5)
@llm_task(team="growth", feature="summaries", budget="$0.50")
def summarise(document: str) -> str:
    """A healthy task: it retries what is worth it, and not for ever."""
    return ask(f"Summarise in one sentence: {document}")


@app.task
@llm_task(team="growth", feature="digest", budget="$0.50")
def combine(summaries: list[str]) -> str:
    """The end of a digest."""
    return ask("Make one paragraph of these: " + " ".join(summaries))


@app.task
@llm_task(team="growth", feature="digest", tree_budget="$2")
def digest(documents: list[str]) -> str:
    """A healthy tree: it starts a summary of each document and then combines them. Returns the id of the last step."""
    return chord((summarise.s(document) for document in documents), combine.s()).apply_async().id


@app.task(autoretry_for=(Exception,), max_retries=None, default_retry_delay=0)
@llm_task(team="growth", feature="extraction")
def extract(manual: str) -> dict:
    """Deliberately broken: it asks for prose, reads it as JSON, and takes the error that this always is for bad luck.

    So it tries again, for ever, with the whole manual each time.
    """
    return json.loads(ask(f"Describe this manual in plain prose:\n{manual}"))
