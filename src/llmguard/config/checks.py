"""What is wrong although every value by itself is right: names, addresses, secrets, and settings that contradict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from llmguard.config.document import Document, Loc, dotted
from llmguard.config.problems import shown
from llmguard.config.schema import Config
from llmguard.config.secrets import PURPOSES, ledger_file, missing_secrets, too_weak
from llmguard.config.sections import Provider
from llmguard.config.types import masked

_MEMORY: Final = "memory://"
_STORES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster")
_LEDGERS: Final = ("sqlite", "postgresql", "postgresql+psycopg")
_RESERVED: Final = ("v1", "v1beta", "admin", "livez", "readyz", "metrics")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")

Finding = tuple[Loc, str, str]
"""Where, what is wrong, what to write."""


def check(config: Config, document: Document) -> None:
    """Report every such mistake. ``config`` holds the parts of the document that are right by themselves."""
    for find in _CHECKS:
        for loc, message, fix in find(config, document):
            document.report(loc, message, fix)
    told = any(loc[0] == "secrets" for loc in document.broken)
    if config.ledger.startswith("postgresql") and not told and not config.secrets.complete:
        document.problems.append(missing_secrets(document.where(("ledger",))))


def _server(config: Config, document: Document) -> Iterator[Finding]:
    host = config.server.host
    if not (_is_address(host) or _HOST.fullmatch(host)):
        yield (
            ("server", "host"),
            f"server.host is {host!r}, not an address",
            "write 127.0.0.1, or 0.0.0.0 for every one",
        )
    elif config.development and not _is_loopback(host):
        yield (
            ("server", "host"),
            f"server.host is {host!r}, but without a configuration file the gateway listens to this machine only",
            "write 127.0.0.1, or give a configuration",
        )
    if config.server.workers > 1 and config.store == _MEMORY and ("store",) not in document.broken:
        yield (
            ("server", "workers"),
            f"server.workers is {config.server.workers}, but each worker would have a store 'memory://' of its own",
            "write workers: 1, or store: redis://localhost:6379/0",
        )


def _store(config: Config, document: Document) -> Iterator[Finding]:
    if config.store == _MEMORY:
        return
    url, said, fix = urlsplit(config.store), shown(config.store, ()), "write memory:// or redis://localhost:6379/0"
    if url.scheme not in _STORES:
        yield ("store",), f"store is {said}, which no store of this version understands", fix
    elif not (url.hostname and re.fullmatch(r"(?:/\d*)?", url.path)):
        yield ("store",), f"store is {said}, without a host or with a database that is no number", fix


def _ledger(config: Config, document: Document) -> Iterator[Finding]:
    url, said = urlsplit(config.ledger), shown(config.ledger, ())
    if url.scheme not in _LEDGERS:
        fix = "write sqlite:///llmguard.db or postgresql://localhost/llmguard"
        yield ("ledger",), f"ledger is {said}, which no ledger of this version understands", fix
    elif url.scheme == "sqlite" and (url.netloc or ledger_file(config.ledger) is None):
        fix = "write sqlite:///llmguard.db, with three slashes (four before an absolute path)"
        yield ("ledger",), f"ledger is {said}, which names no file", fix
    elif url.scheme != "sqlite" and len(url.path) < 2:
        yield ("ledger",), f"ledger is {said}, which names no database", "write postgresql://localhost/llmguard"


def _secret_strength(config: Config, document: Document) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for purpose in PURPOSES:
        given = getattr(config.secrets, purpose)
        several = () if given is None else given if isinstance(given, tuple) else (given,)
        for index, secret in enumerate(several):
            loc: Loc = ("secrets", purpose) if purpose == "pepper" else ("secrets", purpose, index)
            value = secret.get_secret_value()
            if too_weak(value):
                fix = "write 32 random bytes: openssl rand -hex 32"
                yield loc, f"{dotted(loc)} is too weak ({len(value)} characters)", fix
            elif value in seen:
                yield (
                    loc,
                    f"{dotted(loc)} is the same secret as {seen[value]}",
                    "make each of them: openssl rand -hex 32",
                )
            seen.setdefault(value, dotted(loc))


def _provider_set(config: Config, document: Document) -> Iterator[Finding]:
    if not config.providers and not document.problems:
        yield ("providers",), "no provider is configured", "write providers: {openai: {dialect: openai, keys: [...]}}"
    families: dict[str, list[str]] = {}
    for name, provider in config.providers.items():
        families.setdefault(provider.dialect, []).append(name)
        if name.lower() in _RESERVED:
            yield ("providers", name), f"providers.{name} has the name of a route of the gateway", "choose another name"
    for family, names in families.items():
        marked = [name for name in names if config.providers[name].default]
        if family == "sandbox" or len(names) == 1 or len(marked) == 1:
            continue
        unsure = f"{' and '.join(marked or names)} {'are all marked' if marked else 'are not marked'} `default`"
        yield (
            ("providers", (marked or names)[-1]),
            f"which provider takes an unlisted model of the family {family!r} is not clear: {unsure}",
            f"write default: true for one of {', '.join(names)}",
        )


def _each_provider(config: Config, document: Document) -> Iterator[Finding]:
    for name, provider in config.providers.items():
        for key, message, fix in _provider(provider):
            yield ("providers", name, key), f"providers.{name}.{key} {message}", fix


def _provider(provider: Provider) -> Iterator[tuple[str, str, str]]:
    if provider.dialect == "sandbox":
        if provider.base_url is not None or provider.keys:
            key = "base_url" if provider.base_url is not None else "keys"
            yield key, "is set, but the sandbox is built in and asks nobody", "remove it"
        return
    if not provider.keys and not provider.internal:
        yield "keys", "is missing", 'write keys: ["${NAME_OF_A_VARIABLE}"]'
    if any(not key.get_secret_value().isascii() or not key.get_secret_value().strip() for key in provider.keys):
        yield "keys", "holds a key that is empty or not ASCII", 'write keys: ["${NAME_OF_A_VARIABLE}"]'
    if provider.base_url is not None:
        yield from _address(provider)
    if provider.proxy is not None and urlsplit(provider.proxy).scheme != "http":
        yield "proxy", f"is {masked(provider.proxy)!r}, not an HTTP proxy", "write http://proxy.example:3128"


def _address(provider: Provider) -> Iterator[tuple[str, str, str]]:
    assert provider.base_url is not None
    url = urlsplit(provider.base_url)
    said = f"is {masked(provider.base_url)!r}"
    right = f"write {_plain(url)}"
    if url.scheme not in ("http", "https") or not url.hostname:
        yield "base_url", f"{said}, not an http or https address", "write https://host/path"
        return
    if url.username is not None or url.password is not None:
        yield "base_url", f"{said}, with a user or password in it", f"{right} and put the key under keys"
    if url.query or url.fragment:
        yield "base_url", f"{said}, with a query or fragment", right
    if provider.internal:
        return
    if _is_private(url.hostname):
        yield "base_url", f"{said}, an address that is not public", "write internal: true if it is meant"
    elif url.scheme == "http":
        yield "base_url", f"{said}, which sends keys and prompts unencrypted", "write https://, or internal: true"


def _plain(url: SplitResult) -> str:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}{f':{url.port}' if url.port else ''}{url.path}"


def _alerts(config: Config, document: Document) -> Iterator[Finding]:
    for index, alert in zip(document.kept.get("alerts", ()), config.alerts, strict=True):
        loc: Loc = ("alerts", index, "url")
        url = urlsplit(alert.url.get_secret_value())
        if not alert.on:
            yield ("alerts", index, "on"), f"alerts[{index}].on is empty", "write on: [budget, trip, drift]"
        if not url.hostname or url.fragment:
            yield loc, f"{dotted(loc)} has no host, or a fragment", "write https://host/path"
        elif alert.internal:
            continue
        elif _is_private(url.hostname):
            yield loc, f"{dotted(loc)} is on an address that is not public", "write internal: true if it is meant"
        elif url.scheme == "http":
            yield loc, f"{dotted(loc)} would send alerts unencrypted", "write https://, or internal: true"


def _gateway(config: Config, document: Document) -> Iterator[Finding]:
    if config.gateway is None:
        return
    url = urlsplit(config.gateway)
    plain = url.username is None and url.path in ("", "/") and not url.query and not url.fragment
    if url.scheme not in ("http", "https") or not url.hostname or not plain:
        fix = "write scheme, host and port only, such as https://llm.corp.example"
        yield ("gateway",), f"gateway is {masked(config.gateway)!r}, which is no origin", fix


def _models(config: Config, document: Document) -> Iterator[Finding]:
    declared = _declared(document)
    for name, alias in config.models.items():
        loc = ("models", name)
        if "*" in name:
            yield loc, f"models has the wildcard {name!r}, which would answer to any name", "name each model"
        elif "/" in name or not name.strip():
            yield loc, f"models has {name!r}, which reads as provider/model", "choose a name without a slash"
        wanted = alias.target.provider
        if wanted not in declared:
            yield loc, f"models.{name} goes to {wanted!r}, which is no provider", f"use {_names(declared)}"


def _prices(config: Config, document: Document) -> Iterator[Finding]:
    declared = _declared(document)
    for pattern in config.prices:
        loc = ("prices", pattern)
        provider, slash, model = pattern.partition("/")
        if not pattern.strip("*?/"):
            yield loc, f"prices has {pattern!r}, which names every model of every provider", "name a provider: local/*"
        elif not (provider and slash and model):
            yield loc, f"prices has {pattern!r}, which is no provider/model", "write it like local/* or openai/gpt-4o"
        elif not any(fnmatchcase(name.lower(), provider.lower()) for name in declared):
            yield loc, f"prices has {pattern!r}, which names no provider", f"use {_names(declared)}"


def _rules(config: Config, document: Document) -> Iterator[Finding]:
    declared = _declared(document)
    for section in ("budgets", "limits"):
        first: dict[str, int] = {}
        for index, rule in zip(document.kept.get(section, ()), getattr(config, section), strict=True):
            loc = (section, index, "name")
            if rule.name in first:
                where = document.where((section, first[rule.name], "name"))
                yield loc, f"{section} has the name {rule.name!r} twice (first: {where})", "give each its own name"
            first.setdefault(rule.name, index)
            wanted = rule.scope.get("provider", "*")
            if wanted != "*" and wanted not in declared:
                yield (
                    (section, index, "scope", "provider"),
                    f"{section}[{index}].scope.provider is {wanted!r}, which is no provider",
                    f"use {_names(declared)}",
                )


def _declared(document: Document) -> list[str]:
    providers = document.tree.get("providers")
    return [str(name) for name in providers] if isinstance(providers, dict) else []


def _names(declared: list[str]) -> str:
    return ", ".join(declared) or "a name that you give under providers"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_private(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and not ip_address(host).is_global)


_CHECKS: Final[tuple[Callable[[Config, Document], Iterator[Finding]], ...]] = (
    _server,
    _store,
    _ledger,
    _secret_strength,
    _provider_set,
    _each_provider,
    _alerts,
    _gateway,
    _models,
    _prices,
    _rules,
)
