"""`llmguard serve` before it serves: what stops it, and that then nothing was begun."""

from __future__ import annotations

import socket

import pytest

from llmguard.cli import serve
from tests.support.cli import SANDBOX, Cli


def test_a_port_that_is_taken(cli: Cli) -> None:
    cli.configure(SANDBOX)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = f"llmguard: 127.0.0.1:{port} is taken by another program; stop that one, or choose another --port\n"
        assert cli.fails(1, "serve", "--port", str(port)) == said
    assert cli.files() == {"llmguard.yaml"}


def test_an_address_of_another_machine(cli: Cli) -> None:
    cli.configure(SANDBOX)
    assert "nobody can listen on 192.0.2.1:9 (" in cli.fails(1, "serve", "--host", "192.0.2.1", "--port", "9")


def test_a_port_that_is_free(cli: Cli) -> None:
    for host in ("127.0.0.1", "localhost"):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
        assert serve._taken(host, port) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "gateway.example"])
def test_development_mode_listens_to_this_machine_only(cli: Cli, host: str) -> None:
    assert cli.fails(2, "serve", "--host", host).startswith(f"--host: {host} is not loopback, and this is development")
    assert cli.files() == set()


def test_workers_need_a_store_that_they_share(cli: Cli) -> None:
    cli.configure(SANDBOX)
    assert "--workers: 2 workers with memory:// would each spend every budget" in cli.fails(
        2, "serve", "--workers", "2"
    )


def test_a_spool_that_cannot_be_made(cli: Cli) -> None:
    cli.configure(SANDBOX + "spool: {path: llmguard.yaml/spool}\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    error = cli.fails(1, "serve", "--port", str(port))
    assert error.startswith("llmguard: spend cannot be recorded: ")
    assert "llmguard.yaml is no directory; let `spool.path` be a directory" in error
    assert cli.files() == {"llmguard.yaml"}
