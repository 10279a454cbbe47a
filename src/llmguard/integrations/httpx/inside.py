"""What the calls of one guard share in one process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from llmguard.core.call import Caller
from llmguard.core.exchange import Ending, Exchange, Pipeline, Stage
from llmguard.core.runs import Paid
from llmguard.integrations.httpx import aborts
from llmguard.integrations.httpx.backoff import Backoff
from llmguard.integrations.httpx.running import Sweep
from llmguard.integrations.httpx.waits import Sleep
from llmguard.runtime.process import ProcessService


class Inside:
    """The process's service, and what doors keep beside it."""

    def __init__(self, service: ProcessService, stages: Sequence[Stage]) -> None:
        self.service = service
        self.stages = Pipeline(stages)
        self.backoff = Backoff()
        self.sweep = Sweep(service)

    def end(self, x: Exchange, ending: Ending) -> None:
        """Put a call on record."""
        self.service.close(x, ending)
        self.ended(x)

    def ended(self, x: Exchange) -> None:
        """A call is on record: the execution that made it has paid if it cost anything, or may have."""
        self.sweep.forget(x)
        if x.caller is not None and x.cost is not None and x.cost.total > 0:
            self.paid(x.caller)

    def paid(self, caller: Caller) -> None:
        """A billed or ambiguous call was made. The store hears of the first one of an execution at once."""
        execution = caller.execution
        if execution is not None and not execution.paid:
            execution.paid = True
            self.service.tell((Paid(execution.key, execution.run_id),))


def hear(caller: Caller, message: str) -> Generator[Sleep, None, None]:
    """The caller is about to hear a refusal that waiting does not mend. Raises
    :class:`llmguard.errors.TaskAborted` where its task has heard enough of them."""
    execution = caller.execution
    if execution is None:
        return
    execution.refusals += 1
    if seconds := aborts.delay(execution):
        yield Sleep(seconds)
    if (error := aborts.aborted(execution, message)) is not None:
        raise error
