"""For ASGI servers: uvicorn helpdesk.asgi:application."""

import os

from django.core.asgi import get_asgi_application

from llmguard.integrations.asgi import Lifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "helpdesk.settings")

application = Lifespan(get_asgi_application())
