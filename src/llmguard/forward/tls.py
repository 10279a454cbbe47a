"""TLS towards providers: verified certificates, checked host names, nothing older than TLS 1.2."""

from __future__ import annotations

import ssl
from functools import cache


@cache
def client_context(ca_file: str | None = None) -> ssl.SSLContext:
    """The context for HTTP/1.1 connections, made once per CA file because loading one takes milliseconds."""
    context = new_client_context(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def new_client_context(ca_file: str | None = None) -> ssl.SSLContext:
    """A context of one's own. Trusts the system's authorities, or only those in ``ca_file`` (PEM).

    Raises OSError when the file cannot be read, ssl.SSLError when it holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
