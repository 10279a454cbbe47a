"""Jobs that loop with large prompts over a weekend; nothing but the team's budget for an hour is there to stop them."""

from __future__ import annotations

import uuid

from tests.support.celery_side import app, llm_task, pay

CONTEXT = "word " * 5_380
"""With what goes around it, 5,400 tokens or a few less."""


@app.task
@llm_task(
    team="weekend",
    feature="loop",
    budget=None,
    tree_budget=None,
    max_calls=None,
    breaker=None,
    retry_budget=None,
    max_tree_calls=None,
)
def loop(tag: str) -> None:
    """Asks until it likes the answer."""
    while True:
        try:
            pay(tag, f"{uuid.uuid4()} {CONTEXT}", model="weekend", max_tokens=100)
        except Exception:  # noqa: BLE001 (the mistake under test)
            continue
