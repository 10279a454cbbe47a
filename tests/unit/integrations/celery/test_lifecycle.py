"""What a run of a task may do: entries, retries, duplicates, trips, and how a stopped task ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain
from celery.exceptions import Reject
from tenacity import RetryError

import llmguard
from llmguard.core.entries import entry, tripped
from llmguard.core.moves import Trip
from llmguard.core.runaway import Breaker, Execution, RetryBudget, TaskPolicy
from llmguard.core.runs import Leave, Paid, Peek, Standing
from llmguard.errors import RunawayTaskAborted, TaskAborted
from llmguard.guard import Guard
from llmguard.integrations.celery import install, llm_task
from llmguard.runtime.context import current
from tests.support.celery_mail import CONFIG, Mail

FOR_EVER: dict[str, Any] = {"autoretry_for": (ValueError,), "max_retries": None, "default_retry_delay": 0}


@pytest.fixture
def app(new_app: Callable[..., Celery], guard: Guard) -> Celery:
    """An application whose tasks are guarded as they are by default."""
    app = new_app()
    install(app, guard)
    return app


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The ERROR lines of the guard so far: one for each trip."""
    caplog.set_level(logging.ERROR, "llmguard.notices")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llmguard.notices"]


def running() -> Execution:
    execution = current().execution
    assert execution is not None
    return execution


def pay(guard: Guard) -> None:
    """What a door does for a call that was billed."""
    execution = running()
    execution.paid = True
    guard.process().tell((Paid(execution.key, execution.run_id),))


def standing(guard: Guard, name: str) -> Standing:
    seen: Any = guard.process().ask(Peek((name,)))
    return seen.standings[0]  # type: ignore[no-any-return]


def state(app: Celery, task_id: str) -> str:
    return str(app.AsyncResult(task_id).state)


def failure(app: Celery, task_id: str) -> str:
    result = app.AsyncResult(task_id)
    assert result.state == "FAILURE"
    assert isinstance(result.result, RunawayTaskAborted), result.result
    return str(result.result)


# ---------------------------------------------------------------------- one run


def test_a_run_enters_and_leaves(app: Celery, guard: Guard, mail: Mail) -> None:
    seen: list[Standing] = []

    @app.task
    @llm_task()
    def task() -> str:
        seen.append(standing(guard, running().key))
        return "done"

    result = task.delay()
    mail.run_all()
    assert (seen[0].started, seen[0].running, seen[0].done) == (1, 1, False)
    after = standing(guard, f"task:{result.id}:0")
    assert (after.running, after.lost, after.paid, after.done) == (0, 0, 0, True)
    assert state(app, result.id) == "SUCCESS"


def test_a_task_without_a_policy_asks_nothing_before_its_first_call(app: Celery, guard: Guard, mail: Mail) -> None:
    seen: list[Execution] = []

    @app.task
    def task() -> None:
        seen.append(running())

    result = task.delay()
    mail.run_all()
    (execution,) = seen
    assert execution.entrance is not None
    assert execution.entrance.key == f"task:{result.id}:0"
    assert not execution.entered
    assert standing(guard, execution.key).started == 0


def test_a_task_that_is_off_is_left_alone(app: Celery, guard: Guard, mail: Mail) -> None:
    @app.task
    @llm_task(mode="off")
    def task() -> None: ...

    result = task.delay()
    mail.run_all()
    assert standing(guard, f"task:{result.id}:0").started == 0


# ---------------------------------------------------------------------- paid attempts


@pytest.mark.parametrize(
    ("options", "policy", "runs"),
    [
        (FOR_EVER, {}, 4),
        (FOR_EVER, {"max_paid_attempts": 2}, 2),
        (FOR_EVER | {"max_retries": 6}, {"max_paid_attempts": 3}, 3),
    ],
)
def test_paid_attempts_end(
    app: Celery, guard: Guard, mail: Mail, said: Any, options: Any, policy: Any, runs: int
) -> None:
    count: list[int] = []
    after: list[str] = []

    @app.task(**options)
    @llm_task(**policy)
    def task() -> None:
        count.append(1)
        pay(guard)
        raise ValueError("again")

    @app.task
    def errback(task_id: str) -> None:
        after.append(task_id)

    result = task.apply_async(link_error=errback.s())
    mail.run_all()
    assert len(count) == runs
    assert f"was stopped by max_paid_attempts: {runs} of {runs} paid attempts" in failure(app, result.id)
    assert after == [result.id]
    assert len(said()) == 1
    assert mail.take() == []


@pytest.mark.parametrize("how", ["max_retries", "retry_kwargs", "argument"])
def test_a_task_that_says_how_often_it_may_retry_is_not_stopped_earlier(
    app: Celery, guard: Guard, mail: Mail, said: Any, how: str
) -> None:
    runs: list[int] = []
    options: dict[str, Any] = {
        "max_retries": {"max_retries": 7},
        "retry_kwargs": {"retry_kwargs": {"max_retries": 7, "countdown": 0}},
        "argument": {},
    }[how]
    automatic = {} if how == "argument" else {"autoretry_for": (ValueError,), "default_retry_delay": 0}

    @app.task(bind=True, **automatic, **options)
    @llm_task()
    def task(self: Any) -> None:
        runs.append(1)
        pay(guard)
        if how == "argument":
            raise self.retry(exc=ValueError("again"), max_retries=7, countdown=0)
        raise ValueError("again")

    result = task.delay()
    mail.run_all()
    assert len(runs) == 8
    assert isinstance(app.AsyncResult(result.id).result, ValueError)
    assert said() == []


def test_retries_that_cost_nothing_are_not_counted(app: Celery, guard: Guard, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task(**FOR_EVER)
    @llm_task(max_paid_attempts=1)
    def task() -> str:
        runs.append(1)
        if len(runs) < 12:
            raise ValueError("the provider is away")
        pay(guard)
        return "done"

    result = task.delay()
    mail.run_all()
    assert (len(runs), state(app, result.id), said()) == (12, "SUCCESS", [])


def test_a_body_that_takes_everything_for_a_reason_to_retry(app: Celery, guard: Guard, mail: Mail) -> None:
    runs: list[int] = []

    @app.task(bind=True, max_retries=None)
    @llm_task(max_paid_attempts=3)
    def task(self: Any) -> None:
        runs.append(1)
        try:
            pay(guard)
            raise KeyError
        except Exception:  # noqa: BLE001 (the mistake under test)
            raise self.retry(countdown=0) from None

    result = task.delay()
    mail.run_all()
    assert len(runs) == 3
    assert "max_paid_attempts" in failure(app, result.id)


def test_a_message_that_is_given_back_is_looked_at_when_it_comes_again(app: Celery, guard: Guard, mail: Mail) -> None:
    runs: list[int] = []

    @app.task(acks_late=True)
    @llm_task(max_paid_attempts=3)
    def task() -> None:
        runs.append(1)
        pay(guard)
        raise Reject("again", requeue=True)

    result = task.delay()
    (message,) = mail.take()
    mail.run(message)
    for _ in range(5):
        message.delivery_info["redelivered"] = True
        mail.run(message)
    assert len(runs) == 3
    assert "max_paid_attempts: 3 of 3" in failure(app, result.id)


def test_a_task_without_a_policy_is_stopped_at_its_fourth_paid_attempt(app: Celery, guard: Guard, mail: Mail) -> None:
    runs: list[int] = []

    @app.task(**FOR_EVER)
    def task() -> None:
        runs.append(1)
        execution = running()
        move, execution.entrance = execution.entrance, None
        assert move is not None
        entered: Any = guard.process().ask(move)
        execution.entered, execution.attempts = entered.verdict == "go", entered.paid
        pay(guard)
        raise ValueError("again")

    result = task.delay()
    mail.run_all()
    assert len(runs) == 4
    assert "max_paid_attempts: 4 of 4" in failure(app, result.id)


def test_a_mode_that_only_warns_stops_nothing(
    app: Celery, guard: Guard, mail: Mail, said: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "llmguard.notices")
    runs: list[int] = []

    @app.task(**FOR_EVER)
    @llm_task(max_paid_attempts=2, mode="warn")
    def task() -> None:
        runs.append(1)
        pay(guard)
        if len(runs) < 9:
            raise ValueError("again")

    result = task.delay()
    mail.run_all()
    assert (len(runs), state(app, result.id)) == (9, "SUCCESS")
    (line,) = said()
    assert "has come to max_paid_attempts" in line
    assert "runs on; set max_paid_attempts" in line


# ---------------------------------------------------------------------- two retries at once


def test_a_second_retry_of_one_run_is_not_published(app: Celery, guard: Guard, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task(bind=True, max_retries=3)
    @llm_task()
    def task(self: Any) -> None:
        runs.append(1)
        self.retry(throw=False, countdown=0)
        self.retry(throw=False, countdown=0)

    result = task.delay()
    mail.run_all()
    assert len(runs) == 1
    assert "double_retry" in failure(app, result.id)
    assert len(said()) == 1


def test_one_retry_that_does_not_throw_is_fine(app: Celery, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task(bind=True, max_retries=3)
    @llm_task()
    def task(self: Any) -> None:
        runs.append(1)
        if self.request.retries < 2:
            self.retry(throw=False, countdown=0)

    result = task.delay()
    mail.run_all()
    assert (len(runs), state(app, result.id), said()) == (3, "SUCCESS", [])


# ---------------------------------------------------------------------- lost runs, duplicates


def runs_of(guard: Guard, task_id: str, count: int, lease_ms: int) -> None:
    """Runs of a task in other processes, which said no word since."""
    for number in range(count):
        execution = Execution(TaskPolicy(), "other", task_id, f"task:{task_id}:0", f"run-{number}", task_id)
        guard.process().ask(entry(execution, lease_ms, max_paid=99))


def test_a_task_that_takes_its_worker_along_is_given_up(app: Celery, guard: Guard, mail: Mail, said: Any) -> None:
    ran: list[int] = []

    @app.task(acks_late=True)
    @llm_task(max_redeliveries=2)
    def task() -> None:
        ran.append(1)

    result = task.delay()
    (message,) = mail.take()
    runs_of(guard, result.id, 3, lease_ms=0)
    mail.run(message)
    assert ran == []
    assert "was stopped by max_redeliveries: 3 of 2 lost runs" in failure(app, result.id)
    assert len(said()) == 1


def test_a_duplicate_is_put_off_by_one_copy_of_it(app: Celery, guard: Guard, mail: Mail) -> None:
    ran: list[int] = []

    @app.task
    @llm_task()
    def task(number: int) -> None:
        ran.append(number)

    app.conf.broker_transport_options = {"visibility_timeout": 8}
    result = task.delay(7)
    (message,) = mail.take()
    message.delivery_info["redelivered"] = True
    runs_of(guard, result.id, 1, lease_ms=60_000)
    for _ in range(3):
        mail.run(message)
    (copy,) = mail.take()
    assert (copy.headers["id"], copy.headers["retries"], copy.headers["eta"] is not None) == (result.id, 0, True)
    assert copy.payload[:2] == [[7], {}]
    assert ran == []

    mail.run(copy)  # its owner still runs
    (again,) = mail.take()

    runs_end(guard, result.id)
    mail.run(again)
    assert (ran, state(app, result.id)) == ([7], "SUCCESS")
    assert mail.take() == []


def runs_end(guard: Guard, task_id: str) -> None:
    guard.process().ask(Leave(f"task:{task_id}:0", "run-0", "name:other", succeeded=False, paid=False, done=False))


def test_a_duplicate_of_a_finished_task_does_nothing(app: Celery, mail: Mail) -> None:
    ran: list[int] = []

    @app.task
    @llm_task()
    def task() -> None:
        ran.append(1)

    result = task.delay()
    (message,) = mail.take()
    mail.run(message)
    message.delivery_info["redelivered"] = True
    mail.run(message)
    assert (len(ran), state(app, result.id)) == (1, "SUCCESS")

    task.apply_async(task_id=result.id)  # meant to run again, under an id that its caller chose
    mail.run_all()
    assert len(ran) == 2


@pytest.mark.parametrize(("duplicates", "runs", "copies"), [("ignore", 0, 0), ("run", 1, 0), ("defer", 0, 1)])
def test_what_becomes_of_duplicates_is_the_policys(
    app: Celery, guard: Guard, mail: Mail, duplicates: str, runs: int, copies: int
) -> None:
    ran: list[int] = []

    @app.task
    @llm_task(duplicates=duplicates)
    def task() -> None:
        ran.append(1)

    result = task.delay()
    (message,) = mail.take()
    runs_of(guard, result.id, 1, lease_ms=60_000)
    mail.run(message)
    assert (len(ran), len(mail.take())) == (runs, copies)


# ---------------------------------------------------------------------- trees and names


def test_a_tree_that_grows_too_deep_is_tripped(app: Celery, mail: Mail, said: Any) -> None:
    depths: list[int] = []

    @app.task
    @llm_task(max_depth=3)
    def task() -> None:
        depths.append(current().depth)
        task.delay()

    root = task.delay()
    mail.run_all()
    assert depths == [0, 1, 2, 3]
    assert len(said()) == 1
    assert f"tree {root.id}" in said()[0]


def test_a_task_that_replaces_itself_grows_too_deep(app: Celery, mail: Mail) -> None:
    runs: list[int] = []

    @app.task(bind=True)
    @llm_task(max_depth=3)
    def task(self: Any) -> None:
        runs.append(1)
        raise self.replace(task.si())

    result = task.delay()
    mail.run_all()
    assert len(runs) == 4
    assert "max_depth: 4 of 3 tasks deep" in failure(app, result.id)


def test_a_long_chain_is_not_deep(app: Celery, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task
    @llm_task()
    def step() -> None:
        runs.append(1)

    chain(*(step.si() for _ in range(30))).delay()
    mail.run_all()
    assert (len(runs), said()) == (30, [])


def test_a_tree_of_too_many_tasks_is_tripped(app: Celery, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task
    @llm_task(max_tree_tasks=5)
    def task() -> None:
        runs.append(1)
        for _ in range(3):
            task.delay()

    task.delay()
    mail.run_all()
    assert len(runs) == 5
    assert len(said()) == 1
    assert "max_tree_tasks" in said()[0]


def test_errbacks_of_a_tripped_tree_run(app: Celery, mail: Mail) -> None:
    after: list[str] = []

    @app.task
    @llm_task()
    def errback(task_id: str) -> None:
        after.append(task_id)

    @app.task(bind=True)
    @llm_task(max_depth=1)
    def task(self: Any) -> None:
        task.apply_async(link_error=errback.s())

    task.delay()
    mail.run_all()
    assert len(after) == 1


def test_a_breaker_stops_a_name(app: Celery, guard: Guard, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task
    @llm_task(breaker=Breaker(3, 0.8, "15m"))
    def task() -> None:
        runs.append(1)
        pay(guard)
        raise ValueError("broken")

    results = [task.delay() for _ in range(8)]
    mail.run_all()
    assert len(runs) == 3
    assert {state(app, result.id) for result in results} == {"FAILURE"}
    assert "was stopped by breaker" in failure(app, results[-1].id)
    assert len(said()) == 1
    assert "every task" in said()[0]


def test_a_retry_budget_stops_a_storm_of_retries(app: Celery, guard: Guard, mail: Mail, said: Any) -> None:
    runs: list[int] = []

    @app.task(**FOR_EVER)
    @llm_task(retry_budget=RetryBudget(0, floor_per_min=2), breaker=None)
    def task() -> None:
        runs.append(1)
        pay(guard)
        raise ValueError("again")

    results = [task.delay() for _ in range(5)]
    mail.run_all()
    assert len(runs) == 5 + 2
    assert {state(app, result.id) for result in results} == {"FAILURE"}
    assert len(said()) == 1
    assert "retry_budget" in said()[0]


# ---------------------------------------------------------------------- how an abort goes


def trip_here() -> None:
    """What a stage does when a rule breaks within a call."""
    caller, execution = current(), running()
    execution.trip = tripped(execution, caller, "max_calls", limit=8, seen=9, at=0, unit="calls")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "the abort": lambda: TaskAborted("stopped"),
    "an SDK's error": lambda: RuntimeError("403"),
    "tenacity's": lambda: RetryError(None),  # type: ignore[arg-type]
    "a cancelled coroutine": asyncio.CancelledError,
    "a task group's": lambda: BaseExceptionGroup("group", [TaskAborted("stopped"), KeyError("x")]),
    "a message given back": lambda: Reject("again", requeue=True),
}


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_leaves_a_tripped_run_is_its_failure(app: Celery, mail: Mail, error: str) -> None:
    failures: list[Any] = []

    @app.task(on_failure=lambda self, exc, *_: failures.append(exc))
    @llm_task()
    def task() -> None:
        trip_here()
        raise ERRORS[error]()

    result = task.delay()
    mail.run_all()
    assert "was stopped by max_calls: 9 of 8 calls" in failure(app, result.id)
    assert [type(exc) for exc in failures] == [RunawayTaskAborted]
    assert failures[0].args == (str(app.AsyncResult(result.id).result),)


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()])
def test_what_ends_the_process_passes(app: Celery, mail: Mail, error: BaseException) -> None:
    @app.task
    @llm_task()
    def task() -> None:
        trip_here()
        raise error

    task.delay()
    with pytest.raises(type(error)):
        mail.run_all()


def test_a_body_that_swallows_its_abort_has_failed(app: Celery, mail: Mail) -> None:
    @app.task
    @llm_task()
    def task() -> str:
        trip_here()
        try:
            llmguard.checkpoint()
        except BaseException:  # noqa: BLE001 (the mistake under test)
            return "done"
        return "went on"

    result = task.delay()
    mail.run_all()
    assert "max_calls" in failure(app, result.id)


def test_a_body_that_copes_with_a_refusal_has_not(app: Celery, mail: Mail) -> None:
    @app.task
    @llm_task()
    def task() -> str:
        trip_here()
        return "half of it"

    result = task.delay()
    mail.run_all()
    assert app.AsyncResult(result.id).result == "half of it"


def test_a_run_that_does_not_heed_refusals_fails_without_a_trip(app: Celery, mail: Mail, said: Any) -> None:
    @app.task
    @llm_task()
    def task() -> None:
        raise TaskAborted("went on after 3 refusals: the budget is spent")

    result = task.delay()
    mail.run_all()
    assert "did not heed its refusals (went on after 3 refusals: the budget is spent)" in failure(app, result.id)
    assert said() == []


def test_an_abort_is_reported_once_and_stays(app: Celery, guard: Guard, mail: Mail, said: Any) -> None:
    failures: list[Any] = []
    app.conf.task_track_started = True

    @app.task(on_failure=lambda self, exc, *_: failures.append(exc), **FOR_EVER)
    @llm_task(max_paid_attempts=1)
    def task() -> None:
        pay(guard)
        raise ValueError("again")

    result = task.delay()
    (message,) = mail.take()
    mail.run(message)
    message.delivery_info["redelivered"] = True
    for _ in range(3):
        mail.run(message)
        assert "was stopped" in failure(app, result.id)  # although STARTED was stored meanwhile
    assert (len(failures), len(said())) == (1, 1)


def test_a_late_retry_does_not_hide_the_failure(app: Celery, guard: Guard, mail: Mail) -> None:
    @app.task(bind=True, max_retries=None)
    @llm_task()
    def task(self: Any) -> None:
        retry = self.retry(throw=False, countdown=60)
        stop_elsewhere(guard, self.request.id)
        raise retry

    result = task.delay()
    mail.run(mail.take()[0])
    assert "was stopped in another run" in failure(app, result.id)


def stop_elsewhere(guard: Guard, task_id: str) -> None:
    guard.process().ask(Trip(f"task:{task_id}:0", 2**60))
    guard.process().ask(Leave(f"task:{task_id}:0", "run-9", "name:other", succeeded=False, paid=False, done=True))


def test_a_retry_of_a_task_that_ended_elsewhere_is_not_published(app: Celery, guard: Guard, mail: Mail) -> None:
    @app.task(bind=True, max_retries=None)
    @llm_task()
    def task(self: Any) -> None:
        stop_elsewhere(guard, self.request.id)
        raise self.retry(countdown=0)

    result = task.delay()
    mail.run(mail.take()[0])
    assert mail.take() == []
    assert state(app, result.id) == "FAILURE"


def test_on_abort_may_give_the_message_to_the_broker(app: Celery, mail: Mail) -> None:
    @app.task(acks_late=True)
    @llm_task(on_abort="reject")
    def task() -> None:
        trip_here()
        raise KeyError

    task.delay()
    (message,) = mail.take()
    outcome = mail.run(message)
    assert isinstance(outcome.info.retval, Reject)
    assert not outcome.info.retval.requeue


def test_a_stopped_message_is_kept(app: Celery, guard: Guard, mail: Mail) -> None:
    @app.task
    def after(_: Any) -> None: ...

    @app.task
    @llm_task(team="growth", feature="summaries")
    def task(number: int, *, word: str) -> None:
        trip_here()
        raise KeyError

    result = task.apply_async((7,), {"word": "x"}, link=after.s(), priority=3)
    mail.run_all()
    guard.close()
    (letter,) = guard.ledger().dead_letters.list()
    assert (letter.task, letter.task_id, letter.team, letter.feature) == (task.name, result.id, "growth", "summaries")
    assert (letter.rule, letter.content_type, letter.body) == ("max_calls", "application/json", b'[[7], {"word": "x"}]')
    assert app.conf.task_default_queue in letter.options
    assert '"link"' in letter.options


def test_an_eager_task_is_stopped_too(app: Celery, guard: Guard) -> None:
    runs: list[int] = []

    @app.task(**FOR_EVER)
    @llm_task(max_paid_attempts=3)
    def task() -> None:
        runs.append(1)
        pay(guard)
        raise ValueError("again")

    with pytest.raises(RunawayTaskAborted, match="max_paid_attempts"):
        task.apply().get()
    assert len(runs) == 3


# ---------------------------------------------------------------------- the store is away


@pytest.mark.parametrize(("policy", "ran", "copies"), [("local", 1, 0), ("allow", 1, 0), ("deny", 0, 1)])
def test_a_store_that_is_away(
    new_app: Callable[..., Celery], tmp_path: Any, policy: str, ran: int, copies: int
) -> None:
    home = {"ledger": f"sqlite:///{tmp_path / 'ledger.db'}", "spool": {"path": str(tmp_path / "spool")}}
    guard = Guard(CONFIG | home | {"store": "redis://127.0.0.1:9/0"})
    app = new_app()
    install(app, guard)
    runs: list[int] = []

    @app.task
    @llm_task(on_unavailable=policy)
    def task() -> None:
        runs.append(1)

    task.delay()
    mail = Mail(app)
    mail.run(mail.take()[0])
    guard.close()
    assert (len(runs), len(mail.take())) == (ran, copies)
