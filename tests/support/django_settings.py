"""Settings of the Django project that tests serve: everything that stands in the way of streams and gateways is on."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "not a secret"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.support.django_urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "llmguard.integrations.django",
]
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "llmguard.integrations.django.ContextMiddleware",
]
DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SERVED_DATABASE", ":memory:"),
        "ATOMIC_REQUESTS": True,
    },
}
LLMGUARD: dict[str, Any] = {
    "CONFIG": os.environ.get("SERVED_CONFIG"),
    "ATTRIBUTION": "tests.support.django_views.attribution",
    "INSTRUMENT": "SERVED_CONFIG" in os.environ,
}
globals().update(json.loads(os.environ.get("SERVED_SETTINGS", "{}")))
