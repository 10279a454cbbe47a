"""Settings: an ordinary project, and three places that belong to the guard (marked)."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "for this machine only")
DEBUG = "SECRET_KEY" not in os.environ
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "tickets",
    "llmguard.integrations.django",  # the guard
]
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "llmguard.integrations.django.ContextMiddleware",  # the guard, last
]
ROOT_URLCONF = "helpdesk.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "tickets"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

POSTGRESQL = os.environ.get("DATABASE")
"""Name of a PostgreSQL database; SQLite without it."""
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}
    if POSTGRESQL is None
    else {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": POSTGRESQL,
        "USER": os.environ.get("PGUSER", ""),
        "PASSWORD": os.environ.get("PGPASSWORD", ""),
        "HOST": os.environ.get("PGHOST", ""),
        "PORT": os.environ.get("PGPORT", ""),
        "ATOMIC_REQUESTS": True,
    }
}

LLMGUARD = {  # the guard
    "CONFIG": BASE_DIR / "llmguard.yaml",
    # Tables of its own in the project's PostgreSQL database. SQLite files are not shared.
    "LEDGER": "alias:default" if POSTGRESQL else f"sqlite:///{BASE_DIR / 'llmguard.db'}",
    "ATTRIBUTION": "tickets.llm.attribution",
}
