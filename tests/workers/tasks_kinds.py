"""Every kind of task on a real worker, in one order or another. Loaded by :mod:`tests.workers.test_interception`.

``KINDS_ORDER`` says when `install` is called, and which tracer comes before or after it. Each task leaves a line of
JSON in ``KINDS_HOME``: what it is called, and under which name the guard knows the body that runs.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery, signals

from llmguard.guard import Guard
from llmguard.integrations.celery import install
from llmguard.runtime.context import current
from tests.support.celery_kinds import KINDS
from tests.support.celery_mail import CONFIG

ORDER = os.environ["KINDS_ORDER"]
HOME = Path(os.environ["KINDS_HOME"])

app = Celery("kinds", broker=os.environ["RIG_BROKER"], backend=os.environ["RIG_BACKEND"])
app.conf.update(
    task_default_queue=os.environ["RIG_QUEUE"],
    broker_connection_retry_on_startup=True,
    llmguard_children_alone=True,
    llmguard_instrument=False,
)


def leave(where: str, what: Any) -> None:
    """Append a line for the test."""
    with (HOME / where).open("a") as file:
        file.write(json.dumps(what) + "\n")


def note(called: str, x: int) -> int:
    """The body of every task."""
    execution = current().execution
    leave("ran", [called, execution and execution.name])
    if x < 0:
        raise ValueError(f"{called} was told to fail")
    return x


def make_tasks() -> None:
    """One task of each kind, each called as its kind."""
    for kind, make in KINDS.items():
        make(app, partial(note, kind), kind)


def guard() -> None:
    """Install the guard, with a configuration of its own."""
    install(app, Guard(CONFIG))


def trace_with_sentry() -> None:
    """Sentry, whose events and transactions go into a file."""
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration

    class Transport(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            event = envelope.get_event() or envelope.get_transaction_event()
            if event is not None:
                error = [value["type"] for value in event.get("exception", {}).get("values", ())]
                leave("sentry", [event["transaction"], error])

    sentry_sdk.init(
        "http://key@127.0.0.1:1/1",
        transport=Transport,
        integrations=[CeleryIntegration()],
        default_integrations=False,
        traces_sample_rate=1.0,
    )


def trace_with_otel() -> None:
    """OpenTelemetry, whose spans go into a file. As its manual says, in each child."""
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            for span in spans:
                leave("otel", [span.name, span.status.is_ok])
            return SpanExportResult.SUCCESS

    @signals.worker_process_init.connect(weak=False)
    def start(**_: Any) -> None:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(Exporter()))
        trace.set_tracer_provider(provider)
        CeleryInstrumentor().instrument()


STEPS = {
    "before": (guard, make_tasks),
    "after": (make_tasks, guard),
    "after_bind": (make_tasks, app.finalize, guard),
    "sentry_first": (trace_with_sentry, guard, make_tasks),
    "sentry_last": (make_tasks, guard, trace_with_sentry),
    "otel_first": (trace_with_otel, guard, make_tasks),
    "otel_last": (make_tasks, guard, trace_with_otel),
}

if ORDER == "in_the_child":
    make_tasks()
    signals.worker_process_init.connect(lambda **_: guard(), weak=False)
else:
    for step in STEPS[ORDER]:
        step()
