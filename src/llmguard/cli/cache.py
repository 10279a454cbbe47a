"""`llmguard cache stats|purge`: what is kept of replies, and how to drop it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from llmguard.cli.common import MEMORY, ConfigOption, JsonOption, open_guard, print_json, print_table, say

if TYPE_CHECKING:
    from llmguard.guard import Guard
    from llmguard.stores.cache import Backend

app = typer.Typer(help="Replies that are kept to answer the same call again.", no_args_is_help=True)


@app.command()
def stats(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how many replies are kept, and in how much room."""
    guard = open_guard(config)
    with _backend(guard) as backend:
        found = backend.stats()
    exact = guard.config.cache.exact
    assert exact is not None
    row = {"entries": found.entries, "bytes": found.bytes, "max_bytes": exact.max_size}
    if as_json:
        print_json(row)
    else:
        print_table(tuple(row), [row])


@app.command()
def purge(
    team: Annotated[str | None, typer.Option(help="Only the replies of this team.")] = None,
    org: Annotated[str, typer.Option(help="The team's organisation.")] = "default",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop kept replies; the next calls go to their providers."""
    guard = open_guard(config)
    with _backend(guard) as backend:
        tenants = [None] if team is None else guard.vault().tenants(f"{org}/{team}")
        dropped = sum(backend.purge(tenant) for tenant in tenants)
    if as_json:
        print_json({"dropped": dropped})
    else:
        typer.echo(f"{dropped} kept replies dropped")


@contextmanager
def _backend(guard: Guard) -> Iterator[Backend]:
    """The back end of the cache; a sentence and exit status 1 where there is none that a command could see."""
    exact = guard.config.cache.exact
    if guard.shelf is None or exact is None:
        say("nothing is cached: the configuration has no section `cache: {exact: {ttl: 1h}}`")
        raise typer.Exit(1)
    if (exact.store or guard.config.store) == MEMORY:
        say("kept replies live in the serving process, where no command sees them; restart it to drop them")
        raise typer.Exit(1)
    backend = guard.shelf.backend()
    try:
        yield backend
    finally:
        backend.close()
