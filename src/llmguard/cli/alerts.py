"""`llmguard alerts key|test`: what receivers of alerts need, and whether they hear."""

# ruff: noqa: PLC0415  each command loads what it needs when it runs

from __future__ import annotations

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json, say
from llmguard.runtime.ids import now_ms, uuid7

app = typer.Typer(help="Where alerts go.", no_args_is_help=True)


@app.command()
def key(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the key by which receivers know that an alert is genuine.

    One for each signing secret, the one in use first. It can verify alerts and nothing else.
    """
    from llmguard.sinks.webhook import alert_key

    keys = [alert_key(secret) for secret in open_guard(config).secrets().signing]
    if as_json:
        print_json(keys)
    else:
        typer.echo("\n".join(keys))


@app.command("test")
def send_test(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send every receiver an alert of the type `test`, once."""
    from llmguard.sinks.webhook import Alert, AlertFailed

    receivers = open_guard(config).receivers()
    if not receivers:
        say('there are no receivers; write alerts: [{url: "https://hooks.example.com/x"}]')
        raise typer.Exit(1)
    alert = Alert(f"test-{uuid7()}", "test", now_ms(), "this is a test of llmguard's alerts", {})
    rows = []
    for receiver in receivers:
        try:
            receiver.post(alert)
        except AlertFailed as error:
            rows.append({"host": receiver.host, "delivered": False, "error": str(error)})
        else:
            rows.append({"host": receiver.host, "delivered": True, "error": None})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['host']} has it" if row["delivered"] else f"not delivered: {row['error']}")
    if not all(row["delivered"] for row in rows):
        raise typer.Exit(1)
