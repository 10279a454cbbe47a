"""The Celery application: a broker, a result back end, and the guard."""

import os

from celery import Celery

BROKER = os.environ.get("BROKER_URL", "redis://localhost:6379/0")
GUARDED = os.environ.get("GUARD", "on") != "off"  # `llmguard demo` also shows a worker without the guard

app = Celery("documents", broker=BROKER, backend=BROKER, include=["tasks"])
app.conf.update(broker_connection_retry_on_startup=True, task_acks_late=True, worker_prefetch_multiplier=1)

if GUARDED:
    from llmguard.integrations.celery import install

    install(app)  # every task of this application, decorated or not, and every SDK client of the worker
