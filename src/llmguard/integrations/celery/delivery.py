"""What is known of a task that this process was given to run: who it works for, and what is running of it.

A delivery is kept on the task's request, which Celery keeps on a stack of the thread; that is where code that runs
after the body (chain steps, links, errbacks) finds whom it works for.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from celery._state import _task_stack
from celery.app.task import Context, Task

from llmguard.core.call import Caller
from llmguard.core.runaway import TaskPolicy
from llmguard.integrations.celery import marks
from llmguard.integrations.celery.owners import owner
from llmguard.runtime.context import current

if TYPE_CHECKING:
    from llmguard.integrations.celery.attempts import Attempt
    from llmguard.integrations.celery.installation import Installation

_FIELD: Final = "llmguard_delivery"

# Celery takes what it does not know in a request for message headers, and would send ours along with a retry.
setattr(Context, _FIELD, None)

_THEIRS: Final = "celery."
_making = threading.Lock()


class Delivery:
    """One task that was handed to this process.

    ``name`` is that of the task whose code runs. ``running`` is true while the body runs, so not for what Celery
    publishes afterwards; ``ended`` says that it is over. ``marks`` are what its message
    says of earlier runs. ``around`` are whom the code around it works for and the depth
    that this gives the task, for a message that says nothing of its own. ``began`` is a monotonic time in seconds.

    Its :attr:`attempt`, all that guarding takes, is made for whoever asks first, since most tasks never call a model:
    ``made`` is None until then.
    """

    __slots__ = (
        "around",
        "began",
        "ended",
        "installation",
        "made",
        "marks",
        "name",
        "owner",
        "policy",
        "request",
        "running",
        "task",
    )

    def __init__(self, installation: Installation, task: Task, request: Context, name: str, policy: TaskPolicy) -> None:
        self.installation = installation
        self.task = task
        self.request = request
        self.name = name
        self.policy = policy
        self.marks = marks.read(request, installation.signer) if marks.carried(request) else marks.NONE
        self.around = origin(enclosing(below_top=True))
        self.owner = owner()
        self.began = time.monotonic()
        self.running = self.ended = False
        self.made: Attempt | None = None

    @property
    def attempt(self) -> Attempt:
        """This run of the task, and its dealings with the quota store. The same one in all threads of the body."""
        if self.made is None:
            attempt = self.installation.attempt(self)
            with _making:
                first = self.made is None
                if first:
                    self.made = attempt
            if first:
                attempt.made()
        assert self.made is not None
        return self.made

    def caller(self) -> Caller:
        """Who calls in this task; carries its execution."""
        return self.attempt.caller

    @property
    def key(self) -> str:
        """What all runs of the task share."""
        return key_of(self.request.id, self.request.replaced_task_nesting)

    @property
    def redelivered(self) -> bool:
        """Whether the broker says that it has delivered the message before."""
        return bool((self.request.delivery_info or {}).get("redelivered"))

    @property
    def copy(self) -> bool:
        """Whether the message was put off."""
        return self.marks.copy == (self.request.retries or 0)

    @property
    def asks_first(self) -> bool:
        """Whether the store is asked before the body: also for a task that asks later as a rule, when its last run may
        have been lost. Should its owner have died just now, only waiting tells."""
        survivor = self.request.retries and self.task.retry_on_worker_lost
        return bool(self.policy.asks_first or self.redelivered or survivor or self.copy)

    @property
    def held(self) -> bool:
        """Whether anything is decided before the body runs."""
        return self.asks_first or "max_depth" in self.policy.enforced

    @property
    def guarded(self) -> bool:
        """Whether any rule holds for it."""
        return self.policy.mode != "off"

    @property
    def grows(self) -> bool:
        """Whether a task that is published now is one step deeper: only a body of the user's starts new work; chain
        steps, links, chord bodies and errbacks were asked for before, and Celery's own tasks only hand on."""
        return self.running and not plumbing(self.name)

    def end(self) -> None:
        """The body is over; any number of times. What it leaves behind in threads works for its tree."""
        self.running, self.ended = False, True
        if self.made is not None:
            self.made.execution.ended = True


def plumbing(name: str) -> bool:
    """Whether a task is Celery's own and runs no code of the user's; `celery.chord_unlock` polls for ever under one id.

    `celery.map` and `celery.starmap` go by the name of the task that they run.
    """
    return name.startswith(_THEIRS)


def put(request: Context, delivery: Delivery) -> None:
    """Keep a delivery on its request."""
    request.__dict__[_FIELD] = delivery


def on(request: Context | None) -> Delivery | None:
    """The delivery kept on a request. A request that Celery copies for a direct call carries that of its original."""
    return None if request is None else request.__dict__.get(_FIELD)


def of(task: Task) -> Delivery:
    """The delivery of a task whose body runs on this thread. Raises LookupError outside of one."""
    found = on(task.request_stack.top)
    if found is None:
        raise LookupError(f"{task.name} is not running here")
    return found


def enclosing(*, below_top: bool = False) -> Delivery | None:
    """The innermost delivery on this thread's stack, with ``below_top`` that around the task on top of it."""
    stack = _task_stack.stack
    if len(stack) <= below_top:
        return None
    levels: dict[int, int] = {}
    for place, task in enumerate(reversed(stack)):
        # A task that stands on the stack several times has as many requests, in the same order.
        level = levels[id(task)] = levels.get(id(task), 0) + 1
        requests = task.request_stack.stack
        delivery = on(requests[-level]) if level <= len(requests) else None
        if delivery is not None and place >= below_top:
            return delivery
    return None


def origin(around: Delivery | None) -> tuple[Caller, int]:
    """Whom a task that starts here works for, and its depth: the task on the stack, or whoever the context names.

    A body may name someone else for a part of its work (``with llmguard.context(feature=…)``); its tree and depth stay.
    """
    here = current()
    if around is None:
        return here, here.depth + (here.tree_id is not None)
    if not around.running or here.execution is not around.attempt.execution:
        here = around.caller()
    return here, here.depth + around.grows


def known(caller: Caller) -> bool:
    """Whether a caller says anything worth a header."""
    return bool(caller.tree_id or caller.team or caller.feature or caller.env or caller.end_user)


def key_of(task_id: str, nesting: Any) -> str:
    """What attempts are counted under, also the name of the task's trip: a task that replaces itself keeps its id."""
    return f"task:{task_id}:{nesting or 0}"
