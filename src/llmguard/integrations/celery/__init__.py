"""Guards Celery tasks: who pays, how much, and when a job that runs away is stopped.

::

    from llmguard.integrations.celery import install, llm_task

    app = Celery(…)
    install(app)

    @app.task(bind=True)
    @llm_task(team="growth", feature="summaries", budget="$5", max_paid_attempts=4)
    def summarise(self, doc_id): ...
"""

from llmguard.core.runaway import Breaker, RetryBudget
from llmguard.integrations.celery.decorator import llm_task
from llmguard.integrations.celery.install import install

__all__ = ["Breaker", "RetryBudget", "install", "llm_task"]
