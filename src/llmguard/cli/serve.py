"""`llmguard serve`: the gateway."""

from __future__ import annotations

import ipaddress
import logging
from typing import Annotated

import typer

from llmguard.cli.common import ConfigOption, open_guard
from llmguard.errors import ConfigError, Problem
from llmguard.guard import Guard
from llmguard.proxy import server

DEVELOPMENT = "dev"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, instead of the configured one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, instead of the configured number.")] = None,
) -> None:
    """Run the gateway until SIGTERM."""
    guard = open_guard(config)
    settings = guard.config.server
    host, port, workers = host or settings.host, port or settings.port, workers or settings.workers
    _check(guard, host, workers)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if guard.config.development:
        _welcome(guard, host, port)
    server.share_config(config)
    server.run(guard, host=host, port=port, workers=workers)


def _check(guard: Guard, host: str, workers: int) -> None:
    problems = []
    if guard.config.development and not _loopback(host):
        fix = "listen on 127.0.0.1, or write an llmguard.yaml"
        problems.append(Problem("--host", f"{host} is not loopback, and this is development mode", fix))
    if workers > 1 and guard.config.store == "memory://":
        fix = "use one worker, or store: redis://localhost:6379/0"
        problems.append(Problem("--workers", f"{workers} workers with memory:// would each spend every budget", fix))
    if problems:
        raise ConfigError(problems)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _welcome(guard: Guard, host: str, port: int) -> None:
    ledger = guard.ledger()
    ledger.make_ready()
    _, key = ledger.keys.create(DEVELOPMENT, DEVELOPMENT, DEVELOPMENT)
    ledger.close()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    typer.echo(
        f"""llmguard in development mode on {url}  (no llmguard.yaml; SQLite ledger, budgets in memory)

  key        {key}
             team dev, env dev, feature dev; shown once, a new one at every start
  providers  {", ".join(guard.config.providers)}

Try it:

  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model": "sandbox/echo", "messages": [{{"role": "user", "content": "Hello"}}]}}'

Then, in another terminal:  llmguard report --by team,env,feature --since 1d
"""
    )
