"""The `llmguard` command. Exit status: 0 fine, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import sys

import typer

from llmguard.cli import budgets, configuration, doctor, keys, ledger, objects, serve
from llmguard.errors import ConfigError, LLMGuardError

app = typer.Typer(
    help="Guardrails for what a company spends on LLM APIs.", no_args_is_help=True, pretty_exceptions_enable=False
)
for commands in (serve, configuration, ledger, doctor):
    commands.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(budgets.app, name="budgets")
app.add_typer(objects.app, name="objects")
app.add_typer(configuration.app, name="config")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(2)
    except LLMGuardError as error:
        print(f"llmguard: {error}", file=sys.stderr)
        sys.exit(1)
