"""`llmguard dlq list|requeue`: the messages of tasks that the runaway guard has stopped."""

# ruff: noqa: PLC0415  each command loads what it needs when it runs, and Celery only where it is used

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmguard.cli.common import (
    ConfigOption,
    JsonOption,
    actor,
    moment,
    open_guard,
    open_ledger,
    print_json,
    print_table,
    say,
)
from llmguard.core.call import UNATTRIBUTED
from llmguard.runtime.ids import uuid7

if TYPE_CHECKING:
    from celery import Celery

    from llmguard.ledger import DeadLetter, Ledger

app = typer.Typer(help="Dead letters: messages of stopped tasks.", no_args_is_help=True)

_COLUMNS = ("id", "at", "task", "team", "feature", "rule", "reason", "status", "requeued_as")
_NO_CELERY = "Celery is not here: pip install 'llmguard-gateway[celery]'"


@app.command("list")
def list_letters(
    every: Annotated[bool, typer.Option("--all", help="Also those that were run again.")] = False,
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=10_000, help="How many at most.")] = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the letters that were not run again, the oldest first.

    Never their arguments, in which there may be prompts.
    """
    with open_ledger(open_guard(config)) as ledger:
        rows = [_row(letter) for letter in ledger.dead_letters.list(waiting=not every, limit=number)]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows)


@app.command()
def requeue(
    celery: Annotated[str, typer.Option("--app", help="Your Celery app, such as shop.celery:app.")],
    ids: Annotated[
        list[str] | None, typer.Argument(help="Letters, as `dlq list` shows them; without any, the oldest.")
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, max=10_000, help="How many at most.")] = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send stopped tasks through the broker again, each once and under a new task id.

    They count as new tasks: with attempts and a tree of their own, charged to the team and feature of the old ones.
    """
    application = _load(celery)
    with open_ledger(open_guard(config)) as ledger:
        runs, failures = _send(application, ledger, ids or (), most)
        left = ledger.dead_letters.waiting()
    if as_json:
        print_json({"requeued": runs, "waiting": left})
    else:
        for row in runs:
            typer.echo(f"{row['id']}: {row['task']} runs again as {row['requeued_as']}")
        typer.echo(f"{len(runs)} sent, {left} waiting")
    if ids and not failures and len(runs) < min(len(set(ids)), most):
        failures = ["not all of these letters are waiting; `llmguard dlq list --all` shows what became of them"]
    for failure in failures:
        say(failure)
    if failures:
        raise typer.Exit(1)


def _send(application: Celery, ledger: Ledger, ids: Sequence[str], most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Claim and publish one letter after the other; returns those that went out, and what went wrong.

    A letter that cannot be read does not stop those behind it; a broker that is away stops all.
    """
    from kombu.exceptions import KombuError

    runs: list[dict[str, Any]] = []
    failures: list[str] = []
    while len(runs) + len(failures) < most:
        claimed = ledger.dead_letters.claim(uuid7, actor(), ids=ids)
        if not claimed:
            break
        letter = claimed[0]
        try:
            arguments = _arguments(application, letter)
        except KombuError as error:
            failures.append(f"letter {letter.id} is not content that the app accepts: {error}")
            continue
        try:
            _publish(application, letter, *arguments)
        except (KombuError, OSError) as error:
            failures.append(f"letter {letter.id} was not sent ({error}); it can be tried again in a minute")
            break
        ledger.dead_letters.published(letter)
        runs.append(_row(letter) | {"status": "requeued"})
    return runs, failures


def _publish(application: Celery, letter: DeadLetter, args: Any, kwargs: Any) -> None:
    from llmguard.runtime.context import context

    names = {name: getattr(letter, name) for name in ("team", "env", "feature")}
    with context(**{name: value for name, value in names.items() if value != UNATTRIBUTED}):
        application.send_task(letter.task, args, kwargs, task_id=letter.requeued_as, **json.loads(letter.options))


def _arguments(application: Celery, letter: DeadLetter) -> Any:
    """A letter's ``(args, kwargs)``, read only if the app itself would read such content from its broker."""
    serialization: Any = import_module("kombu.serialization")
    accept = serialization.prepare_accept_content(application.conf.accept_content)
    return serialization.loads(letter.body, letter.content_type, letter.content_encoding, accept=accept)


def _load(path: str) -> Celery:
    """The user's app, found as `celery --app` finds it: from the directory one stands in."""
    module, _, name = path.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        from celery import Celery

        found = getattr(import_module(module), name or "app")
    except ModuleNotFoundError as error:
        said = _NO_CELERY if error.name == "celery" else f"--app {path!r}: there is no module {error.name!r}"
        raise typer.BadParameter(f"{said}; write package.module:app") from None
    except AttributeError:
        raise typer.BadParameter(
            f"--app {path!r}: {module} has no {name or 'app'!r}; write package.module:app"
        ) from None
    if not isinstance(found, Celery):
        raise typer.BadParameter(f"--app {path!r} is a {type(found).__name__}, no Celery app; write package.module:app")
    return found


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "at": moment(letter.at),
        "task": letter.task,
        "task_id": letter.task_id,
        "tree_id": letter.tree_id,
        "org": letter.org,
        "team": letter.team,
        "env": letter.env,
        "feature": letter.feature,
        "rule": letter.rule,
        "reason": letter.reason,
        "status": letter.status,
        "requeued_at": moment(letter.requeued_at),
        "requeued_by": letter.requeued_by,
        "requeued_as": letter.requeued_as,
    }
