"""`llmguard check-config` and `llmguard config schema|show`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json
from llmguard.config import check, json_schema

app = typer.Typer(help="The configuration's grammar, and the one in force.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add `check-config`."""
    root.command("check-config")(check_config)


def check_config(
    file: Annotated[str | None, typer.Argument(help="Configuration file.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name every mistake with file, line, the wrong value and a right one; exit 2 when there is one."""
    problems = check(file or config)
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
def schema() -> None:
    """Print the JSON Schema of llmguard.yaml."""
    print_json(json_schema())


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print the configuration in force, defaults included, secrets masked."""
    print_json(_plain(open_guard(config).config))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)
