"""What docs/wsgi.md and docs/django.md show does what they say: each page's snippets, run in the order of the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("LLMGUARD_", "DJANGO_"))}
CONFIG = {"providers": {"sandbox": {"dialect": "sandbox"}}}


def snippets(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def ran(home: Path, code: str) -> list[Any]:
    """What a program prints, line by line as JSON; its modules and its configuration are in ``home``."""
    (home / "llmguard.yaml").write_text(json.dumps(CONFIG))
    (home / "main.py").write_text(textwrap.dedent(code))
    command = [sys.executable, "-W", "error::RuntimeWarning", "main.py"]
    done = subprocess.run(command, cwd=home, env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


CALLER = """
    import json
    from werkzeug.test import Client
    from llmguard import Guard

    ledger = Guard("llmguard.yaml").ledger()
    ledger.make_ready()
    key = {"authorization": "Bearer " + ledger.keys.create("t", "e", "f")[1]}
    ledger.close()
    asked = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "hello"}]}

    def post(app, path, headers=key):
        reply = Client(app).post(path, json=asked, headers=headers)
        print(json.dumps([reply.status_code, reply.get_data(as_text=True)]))
"""


@pytest.mark.parametrize(
    ("number", "calls"),
    [
        (0, 'post(application, "/v1/chat/completions"); post(application, "/v1/chat/completions", {})'),
        (1, 'post(app, "/llm/v1/chat/completions"); post(app, "/llm/v1/chat/completions", {})'),
        (2, 'post(app, "/v1/chat/completions"); post(app, "/v1/chat/completions", {})'),
    ],
)
def test_the_gateway_and_the_layers_of_the_wsgi_page(tmp_path: Path, number: int, calls: str) -> None:
    (tmp_path / "shown.py").write_text(snippets("wsgi.md")[number])
    answers = ran(tmp_path, textwrap.dedent(CALLER) + "from shown import *\n" + calls.replace("; ", "\n"))
    assert [status for status, _ in answers] == [200, 401]
    assert "hello" in answers[0][1]


def test_the_context_of_the_wsgi_page(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(snippets("wsgi.md")[3])
    code = """
        import json
        from werkzeug.test import Client
        from llmguard.runtime.context import current
        from shown import app

        @app.get("/who")
        def who():
            return [current().team, current().end_user]

        print(Client(app).get("/who", environ_overrides={"REMOTE_USER": "ann"}).get_data(as_text=True).strip())
    """
    assert ran(tmp_path, code) == [["shop", "ann"]]


def test_the_django_page(tmp_path: Path) -> None:
    settings, views, urls, asgi = snippets("django.md")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "llm.py").write_text(views)
    (tmp_path / "shop" / "urls.py").write_text(urls)
    (tmp_path / "shop" / "asgi.py").write_text(asgi)
    database = '{"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}'
    more = f'\nSECRET_KEY = "x"\nROOT_URLCONF = "shop.urls"\nDATABASES = {database}\n'
    sessions = '\nMIDDLEWARE.insert(0, "django.contrib.sessions.middleware.SessionMiddleware")\n'
    own = '\nLLMGUARD["LEDGER"] = "sqlite:///llmguard.db"\n'
    (tmp_path / "shop" / "settings.py").write_text(settings + more + sessions + own)
    code = """
        import json, os
        os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
        import django
        django.setup()
        from django.contrib.auth.models import AnonymousUser
        from django.core.checks import run_checks
        from django.test import Client, RequestFactory
        import llmguard
        from shop.asgi import application
        from shop.llm import attribution

        request = RequestFactory().get("/")
        request.user = AnonymousUser()
        print(json.dumps([str(message.id) for message in run_checks()]))
        print(json.dumps([attribution(request), llmguard.get_guard().config.ledger]))
        reply = Client().post("/llm/v1/chat/completions", {}, content_type="application/json", HTTP_HOST="localhost")
        print(json.dumps(reply.status_code))
    """
    assert ran(tmp_path, code) == [[], [{"team": "shop", "end_user": None}, "sqlite:///llmguard.db"], 400]
