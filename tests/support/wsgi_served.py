"""The WSGI gateway as servers import it, and a Flask application that mounts it. `SERVED_CONFIG` names the file."""

from __future__ import annotations

import os
from typing import Any

import llmguard

guard = llmguard.Guard(os.environ["SERVED_CONFIG"])
application = llmguard.wsgi_app(guard)


def mounted() -> Any:
    """The gateway below `/llm` of a Flask application."""
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = Flask("host")
    app.add_url_rule("/", view_func=lambda: "host")
    return DispatcherMiddleware(app, {"/llm": application})


flask = mounted()
