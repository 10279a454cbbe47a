"""The guard in a Django project: settings, checks, `manage.py llmguard`, attribution of requests, the gateway as URLs.

::

    INSTALLED_APPS += ["llmguard.integrations.django"]
    MIDDLEWARE += ["llmguard.integrations.django.ContextMiddleware"]
    LLMGUARD = {"CONFIG": BASE_DIR / "llmguard.yaml", "LEDGER": "alias:default", "ATTRIBUTION": "shop.llm.attribution"}

The guard that the settings describe is the default one: `llmguard.get_guard()`, guarded clients and tasks use it.
"""

from __future__ import annotations

from llmguard.integrations.django.middleware import ContextMiddleware

__all__ = ["ContextMiddleware"]
