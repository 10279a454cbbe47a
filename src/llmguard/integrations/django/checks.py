"""What `manage.py check` says of the guard: each mistake with its place and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.conf import settings as project
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from llmguard.config import Config
from llmguard.config.secrets import ledger_file
from llmguard.errors import ConfigError, Problem
from llmguard.integrations.django.databases import look_up, own_files
from llmguard.integrations.django.guards import configuration
from llmguard.integrations.django.middleware import ContextMiddleware
from llmguard.integrations.django.settings import Settings, function, read_settings
from llmguard.integrations.django.tables import behind

Messages = list[checks.CheckMessage]

_OURS: Final = "llmguard.integrations.django.ContextMiddleware"
_AUTHENTICATION: Final = "django.contrib.auth.middleware.AuthenticationMiddleware"


def register_all() -> None:
    """Have Django run the checks below."""
    checks.register(check_settings)
    checks.register(check_middleware)
    checks.register(check_functions)
    checks.register(check_ledger_file)
    checks.register(check_store, deploy=True)
    checks.register(check_schema, checks.Tags.database)


def check_settings(**_: Any) -> Messages:
    """E001: the settings or the configuration are wrong. E003: the ledger's alias is."""
    settings = _settings()
    if isinstance(settings, str):
        return [checks.Error(settings, id="llmguard.E001")]
    try:
        url = settings.ledger if settings.alias is None else look_up(settings.alias).url
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="llmguard.E003")]
    try:
        configuration(settings, url)
    except ConfigError as error:
        return [_told(problem) for problem in error.problems]
    return []


def _told(problem: Problem) -> checks.CheckMessage:
    where = problem.where.replace("LLMGUARD_LEDGER", "LLMGUARD['LEDGER']")
    return checks.Error(f"{where}: {problem.message}", hint=problem.fix, id="llmguard.E001")


def check_middleware(**_: Any) -> Messages:
    """E002: the middleware is missing, twice there, or before the authentication that it needs."""
    settings = _settings()
    if isinstance(settings, str):
        return []
    found = [place for place, path in enumerate(project.MIDDLEWARE) if _is_ours(path)]
    if not found:
        if settings.attribution is None:
            return []
        said = "LLMGUARD['ATTRIBUTION'] is never called: ContextMiddleware is not in MIDDLEWARE"
    elif len(found) > 1:
        said = "ContextMiddleware is in MIDDLEWARE twice"
    elif _AUTHENTICATION in project.MIDDLEWARE[found[0] :]:
        said = "ContextMiddleware stands before AuthenticationMiddleware, so nobody is logged in yet where it looks"
    else:
        return []
    return [checks.Error(said, hint=f"write '{_OURS}' once, as the last of MIDDLEWARE", id="llmguard.E002")]


def _is_ours(path: str) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False  # Django says so itself
    return isinstance(found, type) and issubclass(found, ContextMiddleware)


def check_functions(**_: Any) -> Messages:
    """E004: `ATTRIBUTION` or `ON_REFUSAL` names no function."""
    settings = _settings()
    if isinstance(settings, str):
        return []
    messages: Messages = []
    for key, path in (("ATTRIBUTION", settings.attribution), ("ON_REFUSAL", settings.on_refusal)):
        try:
            function(key, path)
        except ImproperlyConfigured as error:
            messages.append(checks.Error(str(error), id="llmguard.E004"))
    return messages


def check_ledger_file(**_: Any) -> Messages:
    """W001: the ledger lies in an SQLite file of the project's own."""
    return [
        checks.Warning(
            f"the ledger is in the SQLite file of DATABASES[{alias!r}], and a transaction of either that reads before "
            "it writes fails there with 'database is locked'",
            hint="write LLMGUARD = {'LEDGER': 'sqlite:///llmguard.db', …}",
            id="llmguard.W001",
        )
        for alias, file in own_files().items()
        for config in _configured()
        if (ledger := ledger_file(config.ledger)) is not None and ledger.resolve() == Path(file).resolve()
    ]


def check_store(**_: Any) -> Messages:
    """W002 (`--deploy`): every process counts alone."""
    return [
        checks.Warning(
            "the store is memory://, so each process of the project spends every budget by itself",
            hint="start Redis or Valkey, and write store: redis://localhost:6379/0 in llmguard.yaml",
            id="llmguard.W002",
        )
        for config in _configured()
        if config.store.startswith("memory:")
    ]


def check_schema(databases: Any = None, **_: Any) -> Messages:
    """W003 (`--database`): the ledger is away, or its tables are not those of this program."""
    settings = _settings()
    if isinstance(settings, str) or not databases or settings.alias not in (None, *databases):
        return []
    why = behind()
    if why is None:
        return []
    command = "llmguard migrate" if settings.alias is None else f"migrate --database {settings.alias}"
    return [checks.Warning(f"the ledger cannot be used: {why}", hint=f"run `manage.py {command}`", id="llmguard.W003")]


def _settings() -> Settings | str:
    """The settings, or what is wrong with them."""
    try:
        return read_settings()
    except ImproperlyConfigured as error:
        return str(error)


def _configured() -> Iterator[Config]:
    """The configuration, unless there is none for now; other checks tell."""
    settings = _settings()
    if isinstance(settings, Settings):
        try:
            yield configuration(settings, settings.ledger if settings.alias is None else look_up(settings.alias).url)
        except (ImproperlyConfigured, ConfigError):
            return
