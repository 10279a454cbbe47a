"""`manage.py llmguard <any command>`: the command line, with the guard of the project's settings."""

from __future__ import annotations

import sys
from argparse import REMAINDER
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, handle_default_options
from django.db import connections

from llmguard.cli.common import given_guard
from llmguard.cli.root import app
from llmguard.integrations.django.guards import find_guard


class Command(BaseCommand):
    """Hands everything after its name to the command line."""

    help = "Run a command of llmguard with the configuration in LLMGUARD: report, keys, migrate, doctor …"
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Run, and exit with the command's own status. `--settings` and `--pythonpath` are Django's."""
        program, _, *arguments = argv
        options, own = _django_options(program, arguments)
        handle_default_options(options)
        try:
            with given_guard(find_guard):
                app(own, prog_name=f"{program} llmguard")
        finally:
            connections.close_all()

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """The command line's own help."""
        with given_guard(find_guard):
            app(["--help"], prog_name=f"{prog_name} {subcommand}", standalone_mode=False)

    def add_arguments(self, parser: CommandParser) -> None:
        """For `call_command("llmguard", "report", "--by", "team")`."""
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *_: Any, arguments: list[str], **options: Any) -> None:
        """Run for `call_command`. Raises CommandError for a status that is not 0."""
        out, err = options.get("stdout") or sys.stdout, options.get("stderr") or sys.stderr
        try:
            with redirect_stdout(out), redirect_stderr(err), given_guard(find_guard):
                app(arguments, prog_name="llmguard")
        except SystemExit as end:
            if end.code:
                said = f"`llmguard {' '.join(arguments)}` failed"
                raise CommandError(said, returncode=int(end.code)) from None


def _django_options(program: str, arguments: list[str]) -> tuple[Any, list[str]]:
    parser = CommandParser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    options, own = parser.parse_known_args(arguments)
    return options, own
