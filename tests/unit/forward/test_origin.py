"""Base URLs."""

from __future__ import annotations

import pytest

from llmguard.forward.options import Origin


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("https://api.openai.com/v1", Origin("https", "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("https://api.anthropic.com/", Origin("https", "api.anthropic.com", 443), "api.anthropic.com"),
        ("http://localhost:8000", Origin("http", "localhost", 8000), "localhost:8000"),
        ("http://localhost:80/a/b/", Origin("http", "localhost", 80, "/a/b"), "localhost"),
        ("https://[2606:4700::1]:8443/x", Origin("https", "2606:4700::1", 8443, "/x"), "[2606:4700::1]:8443"),
        ("https://HOST.Example/", Origin("https", "host.example", 443), "host.example"),
        ("https://xn--bcher-kva.example", Origin("https", "xn--bcher-kva.example", 443), "xn--bcher-kva.example"),
    ],
)
def test_parse(url: str, origin: Origin, authority: str) -> None:
    assert Origin.parse(url) == origin
    assert origin.authority == authority
    assert Origin.parse(str(origin)) == origin
    assert origin.secure == url.startswith("https")


def test_internal_is_only_ever_said() -> None:
    assert not Origin.parse("http://127.0.0.1").internal
    assert Origin.parse("http://127.0.0.1", internal=True).internal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com",
        "ftp://x",
        "https://",
        "https:///v1",
        "https://user:secret@x/",
        "https://@x/",
        "https://x/?a=b",
        "https://x/#a",
        "https://x:0",
        "https://x:65536",
        "https://x:port",
        "https://a b/",
        "https://x/a//b",
        "https://x/a b",
        "https://x\r\nhost: y/",
        "https://bücher.example",
        "https://-x/",
        "https://x/\u00e9",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse(url)
