"""`llmguard objects`: who owns what is stored at a provider."""

from __future__ import annotations

from typing import Annotated

import typer

from llmguard.cli.common import ConfigOption, open_guard
from llmguard.ledger.objects import Owner
from llmguard.runtime.ids import now_ms

app = typer.Typer(help="Objects at providers (files, responses, …) and the teams that own them.", no_args_is_help=True)


@app.command()
def claim(
    provider: Annotated[str, typer.Argument(help="Configured provider.")],
    kind: Annotated[str, typer.Argument(help="file, response, conversation, vector_store, cached_content, …")],
    object_id: Annotated[str, typer.Argument(help="The provider's id of the object.")],
    team: Annotated[str, typer.Option(help="The team that may use it.")],
    org: Annotated[str, typer.Option(help="The team's organisation.")] = "default",
    config: ConfigOption = None,
) -> None:
    """Enter an object that was made before llmguard stood in between, so that its team can use it."""
    guard = open_guard(config)
    if provider not in guard.config.providers:
        raise typer.BadParameter(f"{provider!r} is not configured; there are: {', '.join(guard.config.providers)}")
    ledger = guard.ledger()
    ledger.make_ready()
    ledger.objects.add(kind, provider, object_id, Owner(org, team, now_ms(), None))
    owner = ledger.objects.owner(kind, provider, object_id)
    if owner != (org, team):
        typer.echo(f"{kind} {object_id} already belongs to {'/'.join(owner or ())}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{kind} {object_id} at {provider} belongs to {org}/{team}")
