"""A Celery application's queue in memory, and a stand-in for the worker that runs its messages."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.trace import build_tracer

SECRETS = {
    "pepper": "pepper-7Qx2vBn9KfLr4WzTs8YcHj3MdPg6RkAe1UoVi5Xq",
    "signing": ["signing-3Kd8ZrTq6MwBx1NvYf5LhCs9GjPa2EuRo7WiXb4"],
    "cache": ["cache-9Tn4XbLw2QmKv7HrZs1FdYc6JgPe3RuAo8EiWl5Mx"],
}
CONFIG = {"providers": {"sandbox": {"dialect": "sandbox"}}, "secrets": SECRETS}
"""A guard's configuration that opens nothing: its keys are in it, and no call is made."""


class Mail:
    """The messages of an application's queue, as its worker would find them."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def take(self) -> list[Any]:
        """All messages that wait, in order."""
        taken = []
        with self.app.connection_for_read() as connection:
            queue = connection.SimpleQueue(self.app.conf.task_default_queue)
            while queue.qsize():
                message = queue.get(timeout=1)
                message.ack()
                taken.append(message)
            queue.close()
        return taken

    def run(self, message: Any) -> Any:
        """Run one message as a worker's child does; returns what Celery's tracer says."""
        args, kwargs, embedded = message.payload
        request = {**message.headers, "delivery_info": dict(message.delivery_info), "is_eager": False, **embedded}
        task = self.app.tasks[message.headers["task"]]
        return build_tracer(task.name, task, app=self.app)(message.headers["id"], args, kwargs, request)

    def run_all(self, limit: int = 100) -> int:
        """Run messages until none is left, at most ``limit``; returns how many there were."""
        count = 0
        while count < limit and (messages := self.take()):
            for message in messages:
                self.run(message)
            count += len(messages)
        return count
