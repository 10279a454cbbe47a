"""`llmguard objects`: who owns what is stored at a provider."""

# ruff: noqa: PLC0415  the command loads what it needs when it runs

from __future__ import annotations

import re
from typing import Annotated

import typer

from llmguard.cli.common import ConfigOption, actor, open_guard, open_ledger, say
from llmguard.runtime.ids import now_ms

app = typer.Typer(help="What is stored at providers, and whose.", no_args_is_help=True)


@app.command()
def claim(
    provider: Annotated[str, typer.Argument(help="Configured provider.")],
    kind: Annotated[str, typer.Argument(help="file, response, conversation, vector_store, cached_content, …")],
    object_id: Annotated[str, typer.Argument(help="The provider's id of the object.")],
    team: Annotated[str, typer.Option(help="The team that may use it.")],
    org: Annotated[str, typer.Option(help="The team's organisation.")] = "default",
    config: ConfigOption = None,
) -> None:
    """Let a team use an object that it made before.

    Files, responses and the like that were not made through llmguard belong to nobody until they are claimed.
    """
    from llmguard.ledger.objects import Owner

    guard = open_guard(config)
    if provider not in guard.config.providers:
        raise typer.BadParameter(f"{provider!r} is not configured; there are: {', '.join(guard.config.providers)}")
    if kind not in (known := _kinds()):
        raise typer.BadParameter(f"{kind!r} is no kind of object; there are: {', '.join(sorted(known))}")
    with open_ledger(guard) as ledger:
        ledger.objects.add(kind, provider, object_id, Owner(org, team, now_ms(), None), actor=actor())
        owner = ledger.objects.owner(kind, provider, object_id)
    if owner != (org, team):
        say(f"{kind} {object_id} already belongs to {'/'.join(owner or ())}; only its own team can delete it")
        raise typer.Exit(1)
    typer.echo(f"{kind} {object_id} at {provider} belongs to {org}/{team}")


def _kinds() -> set[str]:
    """The kinds that paths and bodies name."""
    from llmguard.providers import route_rows as rows
    from llmguard.providers.objects import NAMES

    in_paths = re.findall(r"[+{]([a-z_]+)", rows.OPENAI + rows.ANTHROPIC + rows.GEMINI)
    return set(in_paths).union(*(names.kinds.values() for names in NAMES.values())) - {"model", "tuned"}
