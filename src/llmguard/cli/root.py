"""The `llmguard` command. Exit status: 0 fine, 1 failed, 2 wrong usage or configuration.

Foreseeable failures are one sentence each on standard error; a traceback is a bug.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmguard.cli import (
    alerts,
    audit,
    budgets,
    cache,
    configuration,
    demo,
    dlq,
    doctor,
    keys,
    migrate,
    objects,
    report,
    serve,
    trips,
)
from llmguard.cli.common import say
from llmguard.errors import ConfigError, LedgerUnavailable, LLMGuardError, StoreUnavailable

_NEXT: dict[type[LLMGuardError], str] = {
    LedgerUnavailable: "`llmguard doctor` looks at it",
    StoreUnavailable: "start Redis or Valkey, or correct `store:`",
}


class Commands(TyperGroup):
    """Turns the errors of a command into its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                typer.echo(str(problem), err=True)
            raise typer.Exit(2) from None
        except LLMGuardError as error:
            say(_sentence(str(error), _NEXT.get(type(error))))
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise  # whoever read the output has gone; the command line ends quietly
        except OSError as error:
            said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            say(_sentence(said, "let this user read and write there, or name another place in the configuration"))
            raise typer.Exit(1) from None


def _sentence(message: str, then: str | None) -> str:
    """One line, with what to do next where the message does not say it itself."""
    line = " ".join(message.split())
    return line if then is None or "`" in line else f"{line.rstrip('.')}; {then}"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("llmguard-gateway"))
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Guardrails for what a company spends on LLM APIs."""


for commands in (serve, demo, configuration, migrate, doctor):
    commands.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(budgets.app, name="budgets")
report.register(app)
app.add_typer(objects.app, name="objects")
app.add_typer(trips.app, name="trips")
app.add_typer(dlq.app, name="dlq")
app.add_typer(cache.app, name="cache")
app.add_typer(audit.app, name="audit")
app.add_typer(alerts.app, name="alerts")
app.add_typer(configuration.app, name="config")


def main() -> None:
    """Run the command line."""
    app(prog_name="llmguard")
