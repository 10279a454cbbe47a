"""`llmguard doctor`: is everything there that a call needs, and what to do where it is not."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json
from llmguard.config import Provider
from llmguard.errors import LLMGuardError
from llmguard.guard import Guard

_CONNECT_SECONDS = 3.0
_SKEW_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``state`` is `ok`, `warning` or `failed`, ``advice`` what to do."""

    subject: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(doctor)


def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at ledger, spool, store, clock, prices and providers; exit 1 when something failed."""
    guard = open_guard(config)
    looks: list[Callable[[Guard], list[Finding]]] = [_ledger, _spool, _store, _prices, _providers]
    findings = [finding for look in looks for finding in look(guard)]
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            typer.echo(f"{finding.state:8} {finding.subject}: {finding.detail}")
            if finding.advice:
                typer.echo(f"         -> {finding.advice}")
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def _ledger(guard: Guard) -> list[Finding]:
    try:
        ledger = guard.ledger()
        ledger.check()
        differences = ledger.rollup_differences()
    except LLMGuardError as error:
        advice = "start the database, or correct `ledger:`; `llmguard migrate` brings the schema up to date"
        return [Finding("ledger", "failed", str(error), advice)]
    if differences:
        detail = f"{len(differences)} rollup groups differ from the entries"
        return [Finding("ledger", "failed", detail, "report this as a bug; rollups can be rebuilt from the entries")]
    return [Finding("ledger", "ok", "reachable, schema current, rollups equal the entries")]


def _spool(guard: Guard) -> list[Finding]:
    path = Path(guard.config.spool.path)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        return [Finding("spool", "failed", str(error), "let `spool.path` be a directory this user may write")]
    if not os.access(path, os.W_OK | os.X_OK):
        return [Finding("spool", "failed", f"{path} is not writable", f"chown or chmod {path} for this user")]
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    wanted = guard.config.spool.quota
    if free < wanted:
        detail = f"{free // 2**20} MiB free, and one process may use {wanted // 2**20}"
        return [Finding("spool", "warning", detail, "free disk space, or lower `spool.quota`")]
    return [Finding("spool", "ok", f"{path} is writable, {free // 2**20} MiB free")]


def _store(guard: Guard) -> list[Finding]:
    if guard.config.store == "memory://":
        detail = "budgets are kept in the one serving process and start from the ledger's sums"
        return [Finding("store", "ok", detail)]
    try:
        server_ms = asyncio.run(guard.check_store())
    except LLMGuardError as error:
        return [Finding("store", "failed", str(error), "start Redis or Valkey, or correct `store:`")]
    skew = abs(server_ms / 1000 - time.time())
    if skew > _SKEW_SECONDS:
        detail = f"this machine's clock and the store's differ by {skew:.1f} s"
        return [Finding("clock", "warning", detail, "let both follow NTP; budget windows follow the store's clock")]
    return [Finding("store", "ok", "reachable, keeps what it is given"), Finding("clock", "ok", f"{skew:.2f} s apart")]


def _prices(guard: Guard) -> list[Finding]:
    findings = []
    for name, alias in guard.config.models.items():
        quote = guard.catalog.quote(alias.target.provider, alias.target.model)
        if not quote.price.known:
            advice = f"add `prices: {{{alias.target.provider}/{alias.target.model}: {{input: $1/M, output: $4/M}}}}`"
            detail = f"no price is known for model {name!r}; the provider's dearest one is charged"
            findings.append(Finding("prices", "warning", detail, advice))
    return findings or [Finding("prices", "ok", "every configured model has a price")]


def _providers(guard: Guard) -> list[Finding]:
    return [_provider(name, provider) for name, provider in guard.config.providers.items()]


def _provider(name: str, provider: Provider) -> Finding:
    subject = f"provider {name}"
    if provider.address is None:
        return Finding(subject, "ok", "built in")
    if not provider.keys:
        return Finding(subject, "warning", "has no key", f"set providers.{name}.keys")
    parts = urlsplit(provider.address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), _CONNECT_SECONDS).close()
    except OSError as error:
        return Finding(subject, "warning", f"{parts.hostname}:{port}: {error}", "check the address, DNS and firewall")
    return Finding(subject, "ok", f"{parts.hostname}:{port} answers")
