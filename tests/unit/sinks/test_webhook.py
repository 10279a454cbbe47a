"""Alerts over a real socket: signed, delivered once, never anywhere else."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import socket
import ssl

import pytest
import trustme

from llmguard.sinks.webhook import SIGNATURE, Alert, AlertFailed, Webhook, alert_key, signature
from tests.support.receiver import receiver

ALERT = Alert("a-1", "trip", 1_790_000_100_123, "tâsk stopped", {"rule": "max_calls", "cost_usd": "1.5"})
NEW, OLD = alert_key(b"new signing secret"), alert_key(b"old signing secret")


def hook(url: str, **options: object) -> Webhook:
    return Webhook(url, ["trip"], [NEW, OLD], clock=lambda: 1_790_000_101.9, **options)  # type: ignore[arg-type]


def test_an_alert_arrives_signed_by_every_secret(caplog: pytest.LogCaptureFixture) -> None:
    with receiver() as there, caplog.at_level(logging.INFO):
        hook(f"{there.url}/hooks/x?y=z").post(ALERT)
        (got,) = there.got
    assert got.path == "/hooks/x?y=z"
    assert "hooks" not in caplog.text
    assert got.alert == {
        "id": "a-1",
        "type": "trip",
        "created_at": "2026-09-21T14:15:00.123Z",
        "text": "tâsk stopped",
        "data": {"rule": "max_calls", "cost_usd": "1.5"},
    }
    assert got.headers["content-type"] == "application/json"
    found = re.fullmatch(r"t=1790000101,v1=([0-9a-f]{64}),v1=([0-9a-f]{64})", got.headers[SIGNATURE])
    assert found is not None
    signed = b"1790000101." + got.body
    assert found.groups() == tuple(hmac.new(k.encode(), signed, hashlib.sha256).hexdigest() for k in (NEW, OLD))


def test_the_key_of_alerts_is_not_the_signing_secret() -> None:
    assert hmac.new(b"new signing secret", b"llmguard alerts", hashlib.sha256).hexdigest() == NEW
    assert signature([NEW], 1, b"a") != signature([NEW], 2, b"a") != signature([NEW], 2, b"b")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_no_other_answer_is_a_delivery_and_no_redirect_is_followed(status: int) -> None:
    with receiver() as there:
        there.answers = [status]
        with pytest.raises(AlertFailed, match=rf"^127\.0\.0\.1 answered {status}$"):
            hook(f"{there.url}/token").post(ALERT)
        assert [got.path for got in there.got] == ["/token"]


def test_a_receiver_that_is_away_is_named_without_its_secret_path() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/token"
        with pytest.raises(AlertFailed, match=r"^127\.0\.0\.1: ConnectError$"):
            hook(url).post(ALERT)
        assert "token" not in repr(hook(url))


def test_a_silent_receiver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmguard.sinks.webhook.TIMEOUT", 0.1)
    with receiver() as there:
        there.gate.clear()
        with pytest.raises(AlertFailed, match="ReadTimeout"):
            hook(there.url).post(ALERT)


def test_certificates_are_verified_against_the_system_s_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    with receiver(tls) as there, authority.cert_pem.tempfile() as file:
        with pytest.raises(AlertFailed, match="ConnectError"):
            hook(there.url).post(ALERT)
        monkeypatch.setenv("SSL_CERT_FILE", file)
        hook(there.url).post(ALERT)
        assert [got.alert["id"] for got in there.got] == ["a-1"]


def test_a_receiver_hears_what_it_wants_to_hear() -> None:
    trips = hook("https://h.example")
    assert [kind for kind in ("budget", "trip", "drift", "test") if trips.wants(kind)] == ["trip", "test"]
