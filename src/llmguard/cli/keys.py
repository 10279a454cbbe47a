"""`llmguard keys create|list|rotate|revoke`: virtual keys."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json, print_table
from llmguard.config import own_budget
from llmguard.config.units import Wrong, duration
from llmguard.ledger import Ledger
from llmguard.ledger.keys import Key
from llmguard.runtime.ids import now_ms

app = typer.Typer(help="Virtual keys: made, listed, rotated, revoked.", no_args_is_help=True)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_KeyId = Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]


@app.command()
def create(
    team: Annotated[str, typer.Option(help="Team that its calls are charged to.")],
    env: Annotated[str, typer.Option(help="Environment, such as prod.")] = "default",
    feature: Annotated[str, typer.Option(help="Feature; `*` lets callers name any.")] = "default",
    expires: Annotated[str | None, typer.Option(help="How long it is good for, such as 30d.")] = None,
    budget: Annotated[str | None, typer.Option(help="Its own budget, such as $5/day.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown once."""
    for option, value in (("--team", team), ("--env", env), ("--feature", feature)):
        _check_name(option, value)
    if budget is not None:
        _try("--budget", lambda: own_budget("new", budget))
    lifetime = None if expires is None else _try("--expires", lambda: duration(expires))
    ledger = _ledger(config)
    ends = None if lifetime is None else now_ms() + lifetime
    key, text = ledger.keys.create(team, env, feature, expires_at=ends, budget=budget)
    _show(key, text, as_json)


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Every key, revoked ones too, the newest first; never their secrets."""
    rows = [_row(key) for key in _ledger(config).keys.list()]
    if as_json:
        print_json({"keys": rows})
    else:
        print_table(("id", "team", "env", "feature", "budget", "created_at", "expires_at", "status"), rows)


@app.command()
def rotate(
    key_id: _KeyId,
    grace: Annotated[str, typer.Option(help="How long the present secret stays good.")] = "24h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret; the present one stays good for a while."""
    grace_ms = _try("--grace", lambda: duration(grace))
    try:
        key, text = _ledger(config).keys.rotate(key_id, grace_ms=grace_ms)
    except KeyError:
        raise typer.BadParameter(f"no active key {key_id!r}; see `llmguard keys list`") from None
    _show(key, text, as_json)


@app.command()
def revoke(key_id: _KeyId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End a key now; every worker hears of it within a second."""
    try:
        key = _ledger(config).keys.revoke(key_id)
    except KeyError:
        raise typer.BadParameter(f"no key {key_id!r}; see `llmguard keys list`") from None
    if as_json:
        print_json(_row(key))
    else:
        typer.echo(f"key {key.id} is revoked")


def _ledger(config: str | None) -> Ledger:
    ledger = open_guard(config).ledger()
    ledger.make_ready()
    return ledger


def _check_name(option: str, value: str) -> None:
    if value != "*" and not _NAME.fullmatch(value):
        raise typer.BadParameter(f"{option} {value!r}: write letters, digits and . _ - / (at most 128), such as search")


def _try(option: str, read: Any) -> Any:
    try:
        return read()
    except Wrong as error:
        raise typer.BadParameter(f"{option}: {error}") from None


def _row(key: Key) -> dict[str, Any]:
    row = asdict(key)
    for name in ("created_at", "expires_at", "revoked_at", "previous_until"):
        if row[name] is not None:
            row[name] = datetime.fromtimestamp(row[name] / 1000, UTC).isoformat(timespec="seconds")
    return row | {"status": key.status(now_ms())}


def _show(key: Key, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": key.id, "key": text} | {k: v for k, v in _row(key).items() if k != "id"})
    else:
        typer.echo(f"{text}\n\nkey {key.id} for team {key.team}, env {key.env}, feature {key.feature}; shown only now")
