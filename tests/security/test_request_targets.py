"""Request targets as WSGI servers hand them over: whatever their form, the path is read once, or refused."""

from __future__ import annotations

import pytest

from llmguard.integrations.wsgi.environ import raw_path


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/messages?x=1", b"/v1/messages"),
        ("http://any.host/v1/messages?x=/../", b"/v1/messages"),
        ("http://[broken/v1/messages", b"/v1/messages"),
        ("http://user@host:80@other//v1/x", b"//v1/x"),
        ("http://host", b"/"),
        ("//host/v1/messages", b"//host/v1/messages"),
        ("/v1/a%2fb", b"/v1/a%2fb"),
        ("*", b"*"),
    ],
)
def test_the_path_of_a_target(target: str, path: bytes) -> None:
    assert raw_path({"RAW_URI": target, "PATH_INFO": "/elsewhere"}) == path
