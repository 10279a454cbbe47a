"""The application `llmguard.integrations.django`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate

from llmguard.guard import choose
from llmguard.integrations.django import checks, tables
from llmguard.integrations.django.databases import note_names
from llmguard.integrations.django.guards import find_guard
from llmguard.integrations.django.settings import read_settings
from llmguard.integrations.httpx.patching import guard_clients


class GuardConfig(AppConfig):
    """Makes the guard of the settings the default one, before any module of the project asks for it."""

    name = "llmguard.integrations.django"
    label = "llmguard"
    verbose_name = "llmguard"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        note_names()
        choose(find_guard)

    def ready(self) -> None:
        """Register checks and signals; guard the SDK clients of this process.

        Nothing is read beyond the settings, so that `manage.py check` can tell of a wrong configuration. A server with
        one does not start (:class:`.ContextMiddleware`), and a client's call fails.
        """
        checks.register_all()
        post_migrate.connect(tables.after_migrate, sender=self, dispatch_uid="llmguard")
        connection_created.connect(tables.before_maintenance, dispatch_uid="llmguard")
        try:
            wanted = read_settings().instrument
        except ImproperlyConfigured:
            wanted = True
        if wanted:
            guard_clients()
