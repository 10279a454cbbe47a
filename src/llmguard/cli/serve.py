"""`llmguard serve`: the gateway."""

# ruff: noqa: PLC0415  the command loads the server when it runs

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmguard.cli.common import MEMORY, ConfigOption, guard_is_given, open_guard, open_ledger, say
from llmguard.errors import ConfigError, Problem, StoreUnavailable

if TYPE_CHECKING:
    from llmguard.config import Config
    from llmguard.guard import Guard

DEVELOPMENT = "dev"


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(serve)


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port to listen on, instead of the configured one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Worker processes, instead of the configured number.")
    ] = None,
) -> None:
    """Run the gateway until SIGTERM."""
    from llmguard.proxy import server

    guard = open_guard(config)
    settings = guard.config.server
    host, port, workers = host or settings.host, port or settings.port, workers or settings.workers
    _check_options(guard.config, host, workers)
    if workers > 1 and config is None and guard_is_given():
        fix = "use one worker, or name the file that they read: --config llmguard.yaml"
        raise ConfigError([Problem("--workers", "worker processes cannot read this program's settings", fix)])
    _check_machine(guard.config, host, port)
    _check_store(guard)
    server.set_up_logging()
    if guard.config.development:
        _welcome(guard, host, port)
    server.share_config(config)
    try:
        server.run(guard, host=host, port=port, workers=workers)
    except SystemExit as end:  # uvicorn has said why
        raise typer.Exit(1 if end.code else 0) from None


def _check_options(config: Config, host: str, workers: int) -> None:
    """What the configuration's own checks cannot know of. Raises ConfigError."""
    problems = []
    if config.development and not _is_loopback(host):
        fix = "listen on 127.0.0.1, or write an llmguard.yaml"
        problems.append(Problem("--host", f"{host} is not loopback, and this is development mode", fix))
    if workers > 1 and config.store == MEMORY:
        fix = "use one worker, or store: redis://localhost:6379/0"
        problems.append(Problem("--workers", f"{workers} workers with memory:// would each spend every budget", fix))
    if problems:
        raise ConfigError(problems)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_machine(config: Config, host: str, port: int) -> None:
    """Fail before anything is made when the port or the spool cannot be had."""
    from llmguard.cli.spools import unwritable

    trouble = _taken(host, port)
    if trouble is None and (why := unwritable(Path(config.spool.path))) is not None:
        trouble = f"spend cannot be recorded: {why}; let `spool.path` be a directory that this user may write to"
    if trouble is not None:
        say(trouble)
        raise typer.Exit(1)


def _check_store(guard: Guard) -> None:
    """Raise ConfigError for a store that would lose spend; one that is away is waited for, not ready."""
    if guard.config.store == MEMORY:
        return
    try:
        asyncio.run(guard.check_store())
    except StoreUnavailable as error:
        say(f"{error}; no call with a budget is taken until it does")


def _taken(host: str, port: int) -> str | None:
    """Why nobody can listen there; None when one can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            return f"{where} is taken by another program; stop that one, or choose another --port"
        if error.errno == errno.EACCES:
            return f"this user may not listen on {where}; choose a --port above 1023"
        return f"nobody can listen on {where} ({error.strerror}); choose another --host"
    return None


def _welcome(guard: Guard, host: str, port: int) -> None:
    with open_ledger(guard) as ledger:
        _, key = ledger.keys.create(DEVELOPMENT, DEVELOPMENT, DEVELOPMENT)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    typer.echo(
        f"""llmguard in development mode on {url}  (no llmguard.yaml; SQLite ledger, budgets in memory)

  key        {key}
             team dev, env dev, feature dev; shown once, a new one at every start
  providers  {", ".join(guard.config.providers)}

Try it:

  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model": "sandbox/echo", "messages": [{{"role": "user", "content": "Hello"}}]}}'

Then, in another terminal:  {_program()} report --by team,env,feature --since 1d
"""
    )


def _program() -> str:
    """This program as it was called, for lines that are meant to be copied."""
    called = sys.argv[0]
    return f"{sys.executable} -m llmguard" if called.endswith("__main__.py") else called
