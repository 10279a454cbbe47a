"""`llmguard keys create|list|rotate|revoke`: virtual keys."""

# ruff: noqa: PLC0415  each command loads what it needs when it runs

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
    read_option,
    say,
)
from llmguard.runtime.ids import now_ms

if TYPE_CHECKING:
    from llmguard.ledger.keys import Key

app = typer.Typer(help="Virtual keys.", no_args_is_help=True)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_ANY = "*"
_COLUMNS = ("id", "team", "env", "feature", "budget", "created_at", "expires_at", "status")
_KeyId = Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]


@app.command()
def create(
    team: Annotated[str, typer.Option(help="Team that its calls are charged to; '*' is what callers' context says.")],
    env: Annotated[str, typer.Option(help="Environment, such as prod; '*' is what callers' context says.")] = "default",
    feature: Annotated[str, typer.Option(help="Feature; '*' lets callers name any.")] = "default",
    expires: Annotated[str | None, typer.Option(help="How long it is good for, such as 30d.")] = None,
    budget: Annotated[str | None, typer.Option(help="Its own budget, such as '$5/day'.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key, which is shown once."""
    from llmguard.config import own_budget
    from llmguard.config.units import duration

    for option, name in (("--team", team), ("--env", env), ("--feature", feature)):
        if name != _ANY:
            _check_name(option, name)
    if budget is not None:
        read_option("--budget", lambda text: own_budget("new", text), budget)
    ends = None if expires is None else now_ms() + read_option("--expires", duration, expires)
    with open_ledger(open_guard(config)) as ledger:
        key, text = ledger.keys.create(team, env, feature, expires_at=ends, budget=budget, actor=actor())
    _show(key, text, as_json)


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every key, revoked ones too.

    The newest first, and never their secrets.
    """
    with open_ledger(open_guard(config)) as ledger:
        rows = [_row(key) for key in ledger.keys.list()]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows)


@app.command()
def rotate(
    key_id: _KeyId,
    grace: Annotated[str, typer.Option(help="How long the present secret stays good.")] = "24h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret.

    The present one stays good for a while.
    """
    from llmguard.config.units import duration

    grace_ms = read_option("--grace", duration, grace)
    with open_ledger(open_guard(config)) as ledger, _known(key_id):
        key, text = ledger.keys.rotate(key_id, grace_ms=grace_ms, actor=actor())
    _show(key, text, as_json)


@app.command()
def revoke(key_id: _KeyId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End a key now.

    Every process hears of it within a second.
    """
    with open_ledger(open_guard(config)) as ledger, _known(key_id):
        key = ledger.keys.revoke(key_id, actor=actor())
    if as_json:
        print_json(_row(key))
    else:
        typer.echo(f"key {key.id} is revoked")


@contextmanager
def _known(key_id: str) -> Iterator[None]:
    """Exit 1 where the ledger has no such key to change."""
    try:
        yield
    except KeyError:
        say(f"there is no active key {key_id!r}; `llmguard keys list` shows all of them")
        raise typer.Exit(1) from None


def _check_name(option: str, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise typer.BadParameter(f"{option} {value!r}: write letters, digits and . _ - / (at most 128), such as search")


def _row(key: Key) -> dict[str, Any]:
    row = asdict(key)
    times = {name: moment(row[name]) for name in ("created_at", "expires_at", "revoked_at", "previous_until")}
    return row | times | {"status": key.status(now_ms())}


def _show(key: Key, text: str, as_json: bool) -> None:
    if as_json:
        row = _row(key)
        print_json({"id": row.pop("id"), "key": text, **row})
    else:
        typer.echo(text)
        say(f"this is key {key.id} for team {key.team}, env {key.env}, feature {key.feature}; it is shown only now")
