"""What the commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmguard.guard import Guard

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="Configuration file (LLMGUARD_CONFIG; else ./llmguard.yaml; else development mode)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_guard(config: str | None) -> Guard:
    """The checked guard of a command. Raises ConfigError."""
    return Guard(config)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows for people: one line each, missing values as a dash."""
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*("-" if row.get(column) is None else str(row[column]) for column in columns))
    Console().print(table)
