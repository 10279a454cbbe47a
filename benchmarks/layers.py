"""What it costs to have the guard as layers, or mounted in FastAPI: ``python -m benchmarks.layers``.

In one process and event loop, without sockets, the same call is made in turns through

- the gateway as one application, with the sandbox as its provider;
- five layers, each a class of its own, around an application that answers as the sandbox does;
- the gateway with five layers around it, which leave everything to it;
- the gateway mounted in FastAPI.

All have a key, two budgets, a rate and a concurrency limit in memory, and write a row for every call. Turns alternate
call by call, and what counts is the CPU time of the loop's thread, of which the table shows the tenth percentile: a
call that nothing else on the machine has slowed. Goals: layers cost at most 50 µs over the one application, mounting at
most 60 µs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from fastapi import FastAPI

from benchmarks.messages import MODEL, request_body
from benchmarks.procfs import cpu_model
from llmguard.forward.engine import Outgoing
from llmguard.forward.sandbox import SandboxEngine
from llmguard.guard import Guard
from llmguard.integrations.asgi import Audit, Authn, Cache, Meter, Quota, create_app

GOALS_US: Final = {"layers": 50.0, "around": 50.0, "mounted": 60.0}
WORDS: Final = {
    "one": "the gateway alone",
    "layers": "five layers around an application",
    "around": "five layers around the gateway",
    "mounted": "the gateway mounted in FastAPI",
}
_WARM_UP: Final = 200
_PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Contender:
    """An application, and the path that the call has there."""

    app: Any
    path: str = _PATH


def main(argv: list[str]) -> int:
    """Measure and print the table; 0 when the goals are reached, else 1."""
    options = _options(argv)
    with tempfile.TemporaryDirectory(prefix="llmguard-bench-") as home:
        guard = Guard(_configuration(Path(home)))
        found = asyncio.run(_measure(guard, options.calls))
    print(f"{cpu_model()}, {os.cpu_count()} cores; {options.calls} calls each.\n")
    print(_table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(found[name] - found["one"] <= goal for name, goal in GOALS_US.items()) else 1


async def _measure(guard: Guard, calls: int) -> dict[str, float]:
    """The tenth percentile of each contender in microseconds."""
    await guard.service()
    headers = _headers(guard)
    times: dict[str, list[float]] = {name: [] for name in WORDS}
    contenders = _contenders(guard)
    try:
        for contender in contenders.values():
            for _ in range(_WARM_UP):
                await _call(contender, headers)
        gc.collect()
        gc.freeze()
        for _ in range(calls):
            for name, contender in contenders.items():
                times[name].append(await _call(contender, headers))
    finally:
        await guard.aclose()
    return {name: quantiles(taken, n=10)[0] * 1e6 for name, taken in times.items()}


def _contenders(guard: Guard) -> dict[str, Contender]:
    host = FastAPI()
    host.mount("/llm", create_app(guard))
    return {
        "one": Contender(create_app(guard)),
        "layers": Contender(_layered(Answering(), guard)),
        "around": Contender(_layered(create_app(guard), guard)),
        "mounted": Contender(host, "/llm" + _PATH),
    }


def _layered(app: Any, guard: Guard) -> Any:
    for layer in (Audit, Meter, Cache, Quota, Authn):
        app = layer(app, guard=guard)
    return app


class Answering:
    """An application that answers as the sandbox does."""

    def __init__(self) -> None:
        self._engine = SandboxEngine()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        request = Outgoing("POST", scope["raw_path"], scope["headers"], message["body"], lambda: None, 1 << 20)
        reply = await self._engine.send(request)
        body = reply.body
        assert body is not None
        headers = [*reply.headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _call(contender: Contender, headers: list[tuple[bytes, bytes]]) -> float:
    """Make a call and wait for its end; the CPU time it took, in seconds."""
    body = _BODY
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": contender.path,
        "raw_path": contender.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    began = time.thread_time()
    await contender.app(scope, receive, send)
    took = time.thread_time() - began
    if status != 200:
        raise RuntimeError(f"{contender.path} answered {status}")
    return took


_BODY: Final = request_body(stream=False)


def _headers(guard: Guard) -> list[tuple[bytes, bytes]]:
    ledger = guard.ledger()
    _, text = ledger.keys.create("bench", "bench", "bench")
    ledger.close()
    key = (b"authorization", f"Bearer {text}".encode())
    return [(b"host", b"bench"), (b"content-type", b"application/json"), (b"cache-control", b"no-store"), key]


def _configuration(home: Path) -> dict[str, Any]:
    return {
        "ledger": f"sqlite:///{home / 'llmguard.db'}",
        "spool": {"path": str(home / "spool")},
        "providers": {"sandbox": {"dialect": "sandbox"}},
        "models": {MODEL: "sandbox/echo"},
        "cache": {"exact": {"ttl": "1h"}},
        "audit": {"payloads": "full"},
        "runaway": {"mode": "off"},  # every prompt here is the same one
        "budgets": [
            {"name": "team-hourly", "scope": {"team": "bench"}, "limit": "$1000000", "window": "hour"},
            {"name": "key-total", "scope": {"key": "*"}, "limit": "$1000000", "window": "total"},
        ],
        "limits": [
            {"name": "team-rpm", "scope": {"team": "bench"}, "limit": "100000000/minute"},
            {"name": "parallel", "scope": {"team": "bench"}, "limit": "1000 concurrent"},
        ],
    }


def _table(found: dict[str, float]) -> str:
    one = found["one"]
    lines = ["| door | µs a call | × the one application | added µs | goal |", "| --- | --- | --- | --- | --- |"]
    for name, words in WORDS.items():
        added = "–" if name == "one" else f"{found[name] - one:+.0f}"
        goal = f"{GOALS_US[name]:.0f}" if name in GOALS_US else "–"
        lines.append(f"| {words} | {found[name]:.0f} | {found[name] / one:.2f} | {added} | {goal} |")
    return "\n".join(lines)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__)
    parser.add_argument("--calls", type=int, default=3_000, help="measured calls of each contender")
    parser.add_argument("--json", type=Path, help="keep the numbers in this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
