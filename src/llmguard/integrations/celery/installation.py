"""The guard of one Celery application: what its tasks are delivered under, and whose they are."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from celery import Celery
from celery.app.task import Context, Task
from celery.exceptions import ImproperlyConfigured

from llmguard.core.call import UNATTRIBUTED, Caller
from llmguard.core.notes import ContextNote
from llmguard.core.runaway import Execution, TaskPolicy
from llmguard.core.signed import FORGED, Signed, Signer
from llmguard.guard import Guard, get_guard
from llmguard.integrations.celery.attempts import Attempt
from llmguard.integrations.celery.decorator import written_policy
from llmguard.integrations.celery.delivery import Delivery, enclosing, origin, plumbing, put
from llmguard.integrations.celery.errbacks import of_failed
from llmguard.integrations.celery.headers import carried, read
from llmguard.integrations.celery.policy import undecorated
from llmguard.integrations.celery.settings import Settings, read_settings
from llmguard.integrations.httpx.patching import instrument, is_active
from llmguard.ledger.forks import Forgetter
from llmguard.runtime.context import current
from llmguard.runtime.ids import now_ms, uuid7

logger = logging.getLogger(__name__)

_OTHER_KEY: Final = (
    "a task's attribution was signed with a key that this worker does not have; unless someone writes to the broker "
    "who should not, give every process that publishes or runs tasks the same secrets.signing"
)
_CALLS_ANOTHER: Final = frozenset({"celery.map", "celery.starmap"})


class Installation:
    """One application and its guard. Making it reads nothing: configuration and keys are read at the first message."""

    def __init__(self, app: Celery, guard: Guard | None, default: TaskPolicy | Mapping[str, Any] | None) -> None:
        self.app = app
        self._given = guard
        self._default = undecorated(default) if isinstance(default, Mapping) else default
        self._pid = 0
        self._entering = threading.Lock()
        self._forgetter = Forgetter(self._forget)
        self._strangers = False
        self._policies: dict[str, TaskPolicy] = {}

    @cached_property
    def settings(self) -> Settings:
        """What the application's settings say. Raises ImproperlyConfigured."""
        return read_settings(self.app)

    @cached_property
    def guard(self) -> Guard:
        """The guard in force: that of `install`, of the setting `llmguard_config`, or the default one."""
        if self._given is not None:
            return self._given
        return get_guard() if self.settings.config is None else Guard(self.settings.config)

    @cached_property
    def signer(self) -> Signer:
        """Signs and reads the headers of messages."""
        return Signer(self.guard.secrets().signing)

    def deliver(self, task: Task, request: Context) -> Delivery:
        """Take note that a task is about to run here, and under which policy."""
        self._enter_process()
        subject = self._subject(task, request) if task.name in _CALLS_ANOTHER else task
        delivery = Delivery(self, task, request, subject.name, self.policy(subject))
        put(request, delivery)
        return delivery

    def attempt(self, delivery: Delivery) -> Attempt:
        """For whom a delivered task runs, and as which execution. Changes nothing: its first asker may be several."""
        request, policy = delivery.request, delivery.policy
        said = self._said(request)
        if isinstance(said, str):
            self._disbelieve(delivery.name, policy, said)
        whose, depth = (said, said.depth) if isinstance(said, Signed) else delivery.around
        tree_id = whose.tree_id or request.root_id or request.id
        execution = Execution(policy, delivery.name, request.id, delivery.key, uuid7(), tree_id, depth)
        return Attempt(delivery, execution, _caller(whose, policy, request.id, tree_id, depth, execution))

    def caller_by_hand(self, task: Task) -> Caller:
        """For whom a task runs that is called like a function where no body is running: as an errback, on its own."""
        self._enter_process()
        around = enclosing()
        whose: Caller | Signed
        whose, depth = origin(around)
        if around is None:
            failed = of_failed(self)
            whose, depth = (whose, whose.depth) if failed is None else (failed, failed.depth)
        return _caller(whose, self.policy(task), whose.task_id, whose.tree_id, depth, samples=current().samples)

    def policy(self, task: Task) -> TaskPolicy:
        """The rules of a task: those written next to it, else the application's for tasks without any. None of them
        holds for Celery's own tasks."""
        found = self._policies.get(task.name)
        if found is None:
            found = written_policy(task) or self.default
            if plumbing(task.name):
                found = replace(found, mode="off")
            self._policies[task.name] = found
        return found

    @cached_property
    def default(self) -> TaskPolicy:
        """The rules of tasks without any of their own. Raises ImproperlyConfigured."""
        return undecorated(self.settings.default or {}) if self._default is None else self._default

    def check(self) -> None:
        """Read all that would otherwise be read at the first task. Raises ImproperlyConfigured or ConfigError."""
        _ = self.settings, self.guard, self.signer, self.default

    def check_same(self, guard: Guard | None, default: TaskPolicy | Mapping[str, Any] | None) -> None:
        """Whether a second `install` asks for what there is. Raises ImproperlyConfigured."""
        asked = undecorated(default) if isinstance(default, Mapping) else default
        if (guard is not None and guard is not self._given) or (asked is not None and asked != self._default):
            raise ImproperlyConfigured(
                f"{self.app!r} is guarded already, in another way; call install() once, with the guard that is meant."
            )

    def leave_process(self) -> None:
        """This process runs no more tasks: put on record what it has done."""
        if self._pid == os.getpid():
            self.guard.close()

    def _enter_process(self) -> None:
        """The first task of this process: from here on its SDK clients are guarded. Never before a fork, and in the
        main process of a worker that has children only where Celery calls an errback there."""
        if self._pid == os.getpid():
            return
        with self._entering:  # the body of another first task must not meet HTTP libraries that are half imported
            if self._pid != os.getpid():
                self._guard_clients()
                self._pid = os.getpid()

    def _guard_clients(self) -> None:
        if not self.settings.instrument:
            return
        if self._given is not None or self.settings.config is not None:
            instrument(self.guard)
        elif not is_active():
            instrument()

    def _forget(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._entering = threading.Lock()

    def _subject(self, task: Task, request: Context) -> Task:
        """The task whose code runs: of `celery.map` and `celery.starmap` that which they call for each item."""
        inner = (request.kwargs or {}).get("task")
        name = inner.get("task") if isinstance(inner, Mapping) else None
        # Not `app.tasks`, which would finalize the application.
        found: Task = self.app._tasks.get(name, task) if name else task
        return found

    def _said(self, request: Context) -> Signed | str | None:
        """What a task's header says, a word for why it is not believed, or None where there is no header."""
        text = carried(request)
        return None if text is None else read(text, request.id, self.signer)

    def _disbelieve(self, name: str, policy: TaskPolicy, why: str) -> None:
        """Someone put a header on a message that was not made for it. The task runs for whom its own policy says."""
        note = ContextNote(why, f"task {name}", now_ms(), team=policy.team or UNATTRIBUTED)
        self.guard.process().notices.note(note)
        if why == FORGED and not self._strangers:
            self._strangers = True
            logger.error(_OTHER_KEY)


def _caller(
    whose: Caller | Signed,
    policy: TaskPolicy,
    task_id: str | None,
    tree_id: str | None,
    depth: int,
    execution: Execution | None = None,
    samples: int = 1,
) -> Caller:
    """The caller of a task, with what its policy knows better than nobody. Made once: it has many fields."""
    return Caller(
        whose.org,
        whose.team or policy.team,
        whose.env or policy.env,
        whose.feature or policy.feature,
        whose.end_user,
        task_id,
        tree_id,
        whose.trace_id,
        depth,
        samples,
        execution,
    )
