"""`llmguard audit`: the trail of what changed power or money, and what is kept of calls."""

# ruff: noqa: PLC0415  each command loads what it needs when it runs

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
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

if TYPE_CHECKING:
    from llmguard.ledger.audit import AuditRecord, Position

app = typer.Typer(help="The audit trail, and what is kept of calls.", no_args_is_help=True)

_COLUMNS = ("seq", "at", "actor", "action", "subject", "details")
_POSITION = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


@app.command()
def verify(
    expect: Annotated[
        str | None,
        typer.Option(help="SEQ:HASH of a record, noted elsewhere, that must be there still."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every record and the chain between them.

    Exit status 1 names each record that was edited, moved, removed or cut off.
    """
    expected = None if expect is None else _position(expect)
    with open_ledger(open_guard(config)) as ledger:
        found = ledger.audit.verify(expected)
    if as_json:
        flaws = [{"seq": flaw.seq, "what": flaw.what} for flaw in found.flaws]
        print_json({"records": found.records, "last": found.last._asdict(), "flaws": flaws})
    else:
        for flaw in found.flaws:
            say(f"record {flaw.seq}: {flaw.what}")
        if not found.flaws:
            typer.echo(f"{found.records} records, all as they were written")
            if found.records:
                typer.echo(f"note the last one elsewhere: {found.last.seq}:{found.last.hash}")
    if found.flaws:
        raise typer.Exit(1)


@app.command()
def tail(
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=10_000, help="How many records.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last records, the newest last."""
    with open_ledger(open_guard(config)) as ledger:
        rows = [_row(record) for record in ledger.audit.tail(number)]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [row | {"details": _short(row["details"])} for row in rows])


@app.command()
def export(
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only the records before this moment, in UTC."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print all records, one JSON document a line.

    It is JSON with and without --json. `at` is in epoch milliseconds and `details` the text that was hashed.
    """
    end = None if until is None else int(until.replace(tzinfo=UTC).timestamp() * 1000)
    with open_ledger(open_guard(config)) as ledger:
        for record in ledger.audit.export(end):
            typer.echo(json.dumps(record._asdict(), ensure_ascii=False))


@app.command()
def prune(
    archive: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `audit export` has printed.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the oldest records out of the ledger, as far as the archive has them.

    Each must stand in the archive as it stands in the ledger. A new record vouches for them: the trail still verifies.
    """
    with open_ledger(open_guard(config)) as ledger:
        number = ledger.audit.prune(_archived(archive), actor())
    if as_json:
        print_json({"pruned": number})
    else:
        typer.echo(f"{number} records were taken out; keep {archive}")


@app.command()
def payload(
    request_id: Annotated[str, typer.Argument(help="The call's x-llmguard-request-id.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a call said and heard, where `audit: {payloads: ...}` has it kept.

    That you have read it becomes a record of the trail.
    """
    with open_ledger(open_guard(config)) as ledger:
        found = ledger.payloads.read(request_id, actor())
    if found is None:
        say(f"nothing is kept of call {request_id}; `audit: {{payloads: redacted}}` keeps what is said from then on")
        raise typer.Exit(1)
    if as_json:
        print_json(asdict(found) | {"at": moment(found.at)})
        return
    how = "redacted" if found.redacted else "whole"
    typer.echo(f"{found.event_id}  {moment(found.at)}  {found.org}/{found.team}  {how}")
    for name, text, size in (("prompt", found.prompt, found.prompt_bytes), ("reply", found.reply, found.reply_bytes)):
        typer.echo(f"--- {name}, {size} bytes\n{text}")


def _archived(archive: Path) -> list[AuditRecord]:
    from llmguard.ledger.audit import AuditRecord

    try:
        lines = archive.read_text("utf-8").splitlines()
        return [AuditRecord(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{archive} is not what `audit export` prints: {error}") from None


def _position(text: str) -> Position:
    from llmguard.ledger.audit import Position

    found = _POSITION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"--expect {text!r}: write number:hash, as `audit verify` prints it")
    return Position(int(found[1]), found[2])


def _row(record: AuditRecord) -> dict[str, Any]:
    return record._asdict() | {"at": moment(record.at), "details": json.loads(record.details)}


def _short(details: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in details.items() if value is not None)
