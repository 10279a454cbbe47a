"""What `llmguard doctor` looks at. Looking changes and makes nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from llmguard.cli.common import MEMORY
from llmguard.cli.spools import nearest, unwritable
from llmguard.config import Provider
from llmguard.config.secrets import ledger_file
from llmguard.core.money import usd_string
from llmguard.errors import ConfigError, LLMGuardError
from llmguard.guard import Guard
from llmguard.ledger import migrate, rollups
from llmguard.ledger.engine import create_engine, reading
from llmguard.ledger.rejected import REJECTED

_CONNECT_SECONDS: Final = 3.0
_SKEW_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, and what to do about it."""

    subject: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""


def ledger(guard: Guard) -> Iterator[Finding]:
    """Reachable, with this program's schema, and rollups that equal the entries."""
    file = ledger_file(guard.config.ledger)
    if file is not None and not file.exists():
        yield Finding("ledger", "warning", f"{file} does not exist yet", "`llmguard serve` makes it")
        return
    engine = create_engine(guard.config.ledger)
    try:
        if not migrate.check(engine):
            detail = f"the schema is at {migrate.current(engine) or 'nothing'}, and {migrate.head()} is needed"
            yield Finding("ledger", "failed", detail, "run `llmguard migrate`")
            return
        with reading(engine) as connection:
            wrong = rollups.differences(connection)
    except LLMGuardError as error:
        advice = "start the database, let this user read and write it, or correct `ledger:`"
        yield Finding("ledger", "failed", _line(error), advice)
        return
    finally:
        engine.dispose()
    if wrong:
        yield Finding("ledger", "failed", f"{len(wrong)} rollups differ from the entries", "report this as a bug")
    else:
        yield Finding("ledger", "ok", "reachable, schema current, rollups equal the entries")


def secrets(guard: Guard) -> Iterator[Finding]:
    """Configured, or kept beside an SQLite ledger where nobody else may read them."""
    file = ledger_file(guard.config.ledger)
    if guard.config.secrets.complete or file is None:
        yield Finding("secrets", "ok", "configured")
        return
    kept = file.with_name(file.name + ".secrets")
    if kept.exists():
        mode = stat.S_IMODE(kept.stat().st_mode)
        if mode & 0o077:
            yield Finding("secrets", "failed", f"others may read {kept} (mode {mode:04o})", f"chmod 600 {kept}")
        else:
            yield Finding("secrets", "ok", f"kept in {kept}; back it up with the ledger")
    elif file.exists():
        advice = "restore it from a backup, or make every key anew"
        yield Finding("secrets", "failed", f"{kept} is gone, and without it no key of this ledger is known", advice)
    else:
        yield Finding("secrets", "ok", f"will be made with the ledger, in {kept}")


def spool(guard: Guard) -> Iterator[Finding]:
    """Writable, with room, and without records that could not become rows."""
    path = Path(guard.config.spool.path)
    why = unwritable(path)
    if why is not None:
        yield Finding("spool", "failed", why, "let `spool.path` be a directory that this user may write to")
        return
    disk = os.statvfs(nearest(path))
    free, wanted = disk.f_bavail * disk.f_frsize // 2**20, guard.config.spool.quota // 2**20
    if free < wanted:
        detail = f"{free} MiB are free, and one process may need {wanted} MiB"
        yield Finding("spool", "warning", detail, "free disk space, or lower `spool.quota`")
    else:
        yield Finding("spool", "ok", f"{path} is writable, {free} MiB free")
    rejected = path / REJECTED
    if rejected.exists():
        lines = rejected.read_bytes().count(b"\n")
        advice = "their money is in no report: see `A record that cannot become a row` in docs/operations.md"
        yield Finding("spool", "failed", f"{lines} records in {rejected} could not become rows", advice)


def store(guard: Guard) -> Iterator[Finding]:
    """Answers, and loses nothing; its clock and this machine's agree."""
    if guard.config.store == MEMORY:
        yield Finding("store", "ok", "in the memory of the one serving process; starts from the ledger's sums")
        yield Finding("clock", "ok", "this machine's is the only one")
        return
    try:
        server_ms = asyncio.run(guard.check_store())
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("store", "failed", problem.message, problem.fix)
        return
    except LLMGuardError as error:
        yield Finding("store", "failed", _line(error), "start Redis or Valkey, or correct `store:`")
        return
    yield Finding("store", "ok", "reachable, and keeps what it is given")
    apart = abs(server_ms / 1000 - time.time())
    if apart > _SKEW_SECONDS:
        detail = f"this machine's and the store's are {apart:.1f} s apart"
        yield Finding("clock", "warning", detail, "let both follow NTP; budget windows follow the store's")
    else:
        yield Finding("clock", "ok", f"this machine's and the store's are {apart:.2f} s apart")


def store_down(guard: Guard) -> Iterator[Finding]:
    """What all processes together may spend while the quota store is away."""
    config = guard.config
    if config.store == MEMORY:
        return
    unlimited = [rule.name for rule in config.budget_rules if rule.when_store_down == "allow"]
    unlimited += [rule.name for rule in config.limit_rules if rule.when_store_down == "allow"]
    if unlimited:
        detail = f"while the store is away, calls that no rule but {', '.join(unlimited)} counts may cost anything"
        yield Finding("store_down", "warning", detail, "write when_store_down: local, or deny")
    terms, served = config.store_down.terms, config.server.workers
    each, fleet = usd_string(terms.money_nano), usd_string(terms.money_nano * served)
    detail = (
        f"while the store is away each process may spend ${each}: ${fleet} for the {served} of `llmguard serve` on "
        f"this configuration, and ${each} for each worker process and program that calls from within"
    )
    yield Finding("store_down", "ok", detail)


def prices(guard: Guard) -> Iterator[Finding]:
    """Every model that has a name here has a price."""
    unknown = False
    for name, alias in guard.config.models.items():
        provider, model = alias.target.provider, alias.target.model
        if not guard.catalog.quote(provider, model).price.known:
            unknown = True
            detail = f"no price is known for {name} ({provider}/{model}): the provider's dearest one is charged"
            advice = f'add prices: {{"{provider}/{model}": {{input: $1/M, output: $4/M}}}}'
            yield Finding("prices", "warning", detail, advice)
    if not unknown:
        yield Finding("prices", "ok", "every model under `models:` has a price")


def providers(guard: Guard) -> Iterator[Finding]:
    """Each provider's address takes connections."""
    for name, provider in guard.config.providers.items():
        yield _provider(f"provider {name}", provider)


def alerts(guard: Guard) -> Iterator[Finding]:
    """Somebody hears of trips and budgets, at addresses that take connections."""
    if not guard.config.alerts:
        yield Finding("alerts", "ok", "none are configured: trips and budgets are told in the log only")
    for index, alert in enumerate(guard.config.alerts):
        found = _reached(f"alerts[{index}]", alert.proxy or alert.url.get_secret_value())
        tested = f"{found.detail}; `llmguard alerts test` sends one"
        yield replace(found, detail=tested) if found.state == "ok" else found


def _provider(subject: str, provider: Provider) -> Finding:
    if provider.address is None:
        return Finding(subject, "ok", "built in")
    return _reached(subject, provider.proxy or provider.address)


def _reached(subject: str, address: str) -> Finding:
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = f"{parts.hostname}:{port}"
    try:
        socket.create_connection((parts.hostname or "", port), _CONNECT_SECONDS).close()
    except OSError as error:
        return Finding(subject, "warning", f"{where}: {error}", "check its address, DNS and the firewall")
    return Finding(subject, "ok", f"{where} takes connections")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


LOOKS: Final[tuple[Callable[[Guard], Iterator[Finding]], ...]] = (
    ledger,
    secrets,
    spool,
    store,
    store_down,
    prices,
    providers,
    alerts,
)
