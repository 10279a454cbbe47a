"""The Django project of the tests as WSGI and ASGI servers import it."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.django_settings"

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

from llmguard.integrations.asgi import Lifespan

wsgi = get_wsgi_application()
asgi = Lifespan(get_asgi_application())
