"""`llmguard check-config` and `llmguard config schema|show`."""

# ruff: noqa: PLC0415  each command loads what it needs when it runs

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmguard.cli.common import ConfigOption, JsonOption, mistakes, open_guard, print_json

app = typer.Typer(help="The configuration's grammar, and the one in force.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add `check-config`."""
    root.command("check-config")(check_config)


def check_config(
    file: Annotated[str | None, typer.Argument(help="Configuration file, in place of --config.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name every mistake in a configuration.

    Each with its file and line, the wrong value and a right one; exit status 2 when there is one.
    """
    problems = mistakes(file or config)
    if as_json:
        print_json([{"where": p.where, "message": p.message, "fix": p.fix} for p in problems])
    else:
        for problem in problems:
            typer.echo(str(problem), err=True)
        if not problems:
            typer.echo("the configuration is right")
    if problems:
        raise typer.Exit(2)


@app.command()
def schema(as_json: JsonOption = False) -> None:
    """Print the JSON Schema of llmguard.yaml.

    It is JSON with and without --json.
    """
    from llmguard.config import json_schema

    print_json(json_schema())


@app.command()
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the configuration in force.

    With all defaults, and with secrets masked.
    """
    from ruamel.yaml import YAML

    from llmguard.config.written import written

    document = written(open_guard(config).config)
    if as_json:
        print_json(document)
    else:
        YAML(pure=True).dump(document, sys.stdout)
