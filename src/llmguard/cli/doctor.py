"""`llmguard doctor`: is everything there that a call needs, and what to do where it is not."""

# ruff: noqa: PLC0415  the command loads what it needs when it runs

from __future__ import annotations

from dataclasses import asdict

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(doctor)


def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at what calls need, and say what to do.

    At ledger, secrets, spool, store, clock, prices, providers and alerts; exit status 1 when something failed.
    """
    from llmguard.cli.looks import LOOKS

    guard = open_guard(config)
    findings = [finding for look in LOOKS for finding in look(guard)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.state:8} {finding.subject}: {finding.detail}")
            if finding.advice:
                typer.echo(f"{'':8} -> {finding.advice}")
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)
