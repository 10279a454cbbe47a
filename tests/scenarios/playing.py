"""Plays scenarios at doors: starts what they need, has every caller say its lines, and gathers what is left behind."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
from redis import Redis

from llmguard.guard import Guard
from tests.scenarios.calls import Heard, Scenario
from tests.scenarios.doors import DOORS, PATIENCE, SERVERS, Caller, Door, InsideCaller, SocketCaller
from tests.scenarios.provider import Whose, provider
from tests.scenarios.replies import default
from tests.scenarios.scenarios import BY_NAME, SCENARIOS, SECTIONS, no_meaning
from tests.support import postgres
from tests.support.gateway import Gateway
from tests.support.sight import PARTS, entries
from tests.support.valkey import ValkeyServer
from tests.support.web_servers import web_server

AT_ONCE = 6
"""Scenes; some only wait."""
CLOSED_WITHIN = 2.0
"""Seconds after which nothing of a caller who hung up may be open at the provider; these machines are busy."""
_SETTLED_WITHIN = 15.0
Rows = Mapping[Whose, Sequence[Mapping[str, Any]]]


@dataclass
class Run:
    """What came of it. ``failed`` has what no scenario foresees."""

    heard: dict[Whose, list[Heard]] = field(default_factory=dict)
    failed: dict[Whose, Exception] = field(default_factory=dict)
    forwarded: dict[Whose, int] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    second: Rows = field(default_factory=dict)
    kept: dict[str, Counter[str]] = field(default_factory=dict)
    busy: dict[str, set[str]] = field(default_factory=dict)


class World:
    """One provider, and two guards with a store and a ledger each."""

    def __init__(self, home: Path, doors: Sequence[Door], scenarios: Sequence[Scenario], stack: ExitStack) -> None:
        self.doors = doors
        self.played = [(d, s) for d in doors for s in scenarios if no_meaning(d, s) is None]
        self.provider = stack.enter_context(provider(BY_NAME, [door.name for door in DOORS], default))
        self.store = stack.enter_context(ValkeyServer())
        self.home = home
        self.served = self._gateway("first", 0, ledger=stack.enter_context(postgres.running()))
        self.second = self._gateway("second", 1)
        self._keys = self._make_keys()
        # A connection for each call: a server may close an idle one at the moment when the next call is written to it.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = stack.enter_context(httpx2.Client(verify=False, limits=limits))
        self._guards = [Guard(str(made.path)) for made in (self.served, self.second)]
        for guard in self._guards:
            stack.callback(guard.close)
        if any(not door.server for door in doors):
            _wait(lambda: not any(guard.process().not_ready() for guard in self._guards))
        self.origins = stack.enter_context(self._servers())

    def _gateway(self, name: str, number: int, **more: Any) -> Gateway:
        home = self.home / name
        home.mkdir()
        patience = f"{PATIENCE:g}s"
        common = {
            "base_url": self.provider.origin,
            "keys": ["upstream-key"],
            "internal": True,
            "passthrough": "$0.01",
            "timeouts": {"first_byte": patience, "silence": patience},
        }
        families = {"local": "openai", "claude": "anthropic"}
        own = {
            "secrets": {"pepper": token_hex(32), "signing": [token_hex(32)], "cache": [token_hex(32)]},
            "store": f"redis://127.0.0.1:{self.store.port}/{number}",
            "providers": {name: common | {"dialect": family, "default": True} for name, family in families.items()},
            "models": {"nice": "local/m"},
            "prices": {f"{name}/*": {"input": "$5/M", "output": "$15/M"} for name in families},
        }
        return Gateway(home, {**own, **SECTIONS, **more})

    def _make_keys(self) -> Mapping[Whose, str]:
        keys: dict[Whose, str] = {}
        ledger, second = Guard(str(self.served.path)).ledger(), Guard(str(self.second.path)).ledger()
        for at in (ledger, second):
            at.migrate()
        for door in self.doors:
            if door.server:
                keys["other", door.name] = ledger.keys.create("other", door.name, "chat")[1]
                keys["second", door.name] = second.keys.create("two-guards", door.name, "chat")[1]
        for door, scenario in self.played:
            if door.server:
                keys[scenario.name, door.name] = ledger.keys.create(scenario.name, door.name, "chat")[1]
        for at in (ledger, second):
            at.close()
        return keys

    @contextmanager
    def _servers(self) -> Iterator[Mapping[str, str]]:
        """The origins of the servers that the doors need, started by twos: each has so long from its own start."""
        names = sorted({door.server for door in self.doors if door.server})
        with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
            made = {name: self._server(name) for name in names}
            started = {name: pool.submit(at.__enter__) for name, at in made.items()}
            for name, at in made.items():
                if started[name].exception() is None:
                    stack.push(at)
            yield {name: at.result() for name, at in started.items()}

    @contextmanager
    def _server(self, name: str) -> Iterator[str]:
        if name == "proxy":
            self.served.start()
            try:
                yield self.served.url
            finally:
                self.served.stop()
            return
        server = SERVERS[name]
        environ = {
            "SERVED_CONFIG": str(self.served.path),
            "SECOND_CONFIG": str(self.second.path),
            "SERVED_PROVIDER": self.provider.origin,
            "SERVED_PATIENCE": str(PATIENCE),
        }
        making = web_server(server.kind, server.application, self.home, probe=server.probe, env=environ)
        with making as made:
            yield made.url

    # ------------------------------------------------------------------ the play

    def play(self) -> Run:
        """All scenarios at all doors, few at once: on a busy machine a late store would count as one that is away."""
        run = Run()
        played = sorted(self.played, key=lambda pair: SCENARIOS.index(pair[1]))
        with ThreadPoolExecutor(AT_ONCE) as pool, ThreadPoolExecutor(1) as single:
            for door, scenario in played:
                (single if door.alone else pool).submit(self._scene, run, door, scenario)
        self._gather(run)
        return run

    def _scene(self, run: Run, door: Door, scenario: Scenario) -> None:
        whose = (scenario.name, door.name)
        try:
            caller = self._caller(door, whose)
            heard = run.heard[whose] = []
            for call in scenario.calls:
                heard += caller.ask(call)
                if call.leaves is not None:
                    self._closed(self.provider.numbers(whose))
        except Exception as error:  # noqa: BLE001  whatever it is, the test of this scenario raises it again
            run.failed[whose] = error

    def _closed(self, numbers: set[int]) -> None:
        """These connections of the provider end in time."""
        self.provider.wait_for(lambda provider: not numbers & provider.alive, CLOSED_WITHIN)

    def _caller(self, door: Door, whose: Whose) -> Caller:
        if not door.server:
            return InsideCaller(whose, self.provider, door, *self._guards)
        origin = self.origins[door.server]
        second = "" if door.second is None else origin + door.second
        named = {"own": whose, "other": ("other", door.name), "second": ("second", door.name)}
        keys = {name: self._keys[key] for name, key in named.items()} | {"wrong": "lg_prod_nobody"}
        return SocketCaller(whose, self.provider, self._client, origin + door.prefix, second, keys)

    # ------------------------------------------------------------------ what is left

    def _gather(self, run: Run) -> None:
        """Look at ledgers and store once they say the same, or have had the time to."""
        wanted = sum(len(scenario.rows) for door, scenario in self.played)
        _wait(lambda: len(entries(self.served)) >= wanted and not any(at["held"] for at in self._kept().values()))
        run.kept = self._kept()
        run.rows, run.second = _by_caller(self.served), _by_caller(self.second)
        run.forwarded = {whose: len(seen) for whose, seen in self.provider.seen.items()}
        run.busy = {door.name: self.provider.busy_for(door.name) for door in self.doors}

    def _kept(self) -> dict[str, Counter[str]]:
        """The sums of the store's buckets by door, in both guards' stores."""
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for number in (0, 1):
            with Redis(port=self.store.port, db=number, decode_responses=True) as client:
                for name in client.scan_iter(match="*b:*"):
                    values = client.hgetall(name)
                    door = next((d.name for d in self.doors if f"env={d.name}" in name.split("|")[-1].split(",")), "?")
                    unit = name.rpartition("b:")[2].split("|")[0]
                    found[door].update({f"{unit} {part}": int(values.get(part, 0)) for part in PARTS})
                    found[door]["held"] += sum(int(values.get(part, 0)) for part in ("held", "exposure", "orphan"))
        return found


def _by_caller(served: Gateway) -> Rows:
    found: defaultdict[Whose, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries(served):
        found[entry["team"], entry["env"]].append(entry)
    return found


def _wait(done: Callable[[], bool]) -> None:
    """Until it is so, or has had the time to become so."""
    deadline = time.monotonic() + _SETTLED_WITHIN
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


@contextmanager
def world(home: Path, doors: Sequence[Door], scenarios: Sequence[Scenario]) -> Iterator[World]:
    """Everything that the doors need, running."""
    with ExitStack() as stack:
        yield World(home, doors, scenarios, stack)
