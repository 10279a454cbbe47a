"""One configured guard: checked when made, started on first use."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast
from weakref import WeakSet

from llmguard.config import Config, Secrets, ensure_secrets, load, own_budget
from llmguard.config.in_force import in_force
from llmguard.config.loading import Source, place
from llmguard.config.secrets import ledger_file
from llmguard.core.buckets import Planner, Terms, as_written
from llmguard.core.exchange import Stage
from llmguard.core.moves import Known
from llmguard.core.rules import BudgetRule
from llmguard.core.signed import Signer
from llmguard.errors import ConfigError, LedgerUnavailable, Problem, StoreUnavailable
from llmguard.forward.build import build_routing, build_upstreams
from llmguard.forward.caching import shelf_of
from llmguard.forward.relay import Relay
from llmguard.ledger import Ledger, Shipper, Spool, migrate
from llmguard.ledger.engine import create_engine
from llmguard.ledger.forks import Forgetter
from llmguard.pricing import Catalog
from llmguard.providers.base import mask_secrets
from llmguard.runtime.aio import AsyncRuntime
from llmguard.runtime.allowance import KeptAllowance
from llmguard.runtime.blocking import BlockingLink, BlockingMemoryLink
from llmguard.runtime.books import LedgerBooks
from llmguard.runtime.ids import now_ms, uuid7
from llmguard.runtime.keyring import Keyring
from llmguard.runtime.lifespan import ASGI, Lifespan
from llmguard.runtime.links import Link, MemoryLink, RemoteLink, RemoteStore
from llmguard.runtime.loops import LoopLinks, PerLoop
from llmguard.runtime.notices import Notices
from llmguard.runtime.owners import ObjectOwners
from llmguard.runtime.process import ProcessService
from llmguard.runtime.remaining import Remaining, remaining
from llmguard.runtime.service import Service
from llmguard.runtime.tally import Tally
from llmguard.runtime.upkeep import Parts
from llmguard.sinks.webhook import Webhook, alert_key
from llmguard.stages.attributed import Attributed
from llmguard.stages.audit import Audit
from llmguard.stages.authn import Authn
from llmguard.stages.cache import Cache
from llmguard.stages.meter import Meter
from llmguard.stages.quota import Quota, QuotaPolicy
from llmguard.stages.route import Route
from llmguard.stages.runaway import Runaway
from llmguard.stages.tenancy import Tenancy
from llmguard.stores import open_blocking_store, open_store
from llmguard.stores.cache import Vault
from llmguard.stores.memory import MemoryStore
from llmguard.tokens import Counter

log = logging.getLogger("llmguard.guard")

_LARGE, _SMALL = 16 << 20, 2 << 20
"""Bytes of a spool's segment in a gateway, and in one of perhaps a hundred worker processes; each sets aside two."""


class Guard:
    """A checked configuration and what is built from it. Making one does no I/O beyond reading the configuration.

    ``source`` is a path, a mapping, or None (`LLMGUARD_CONFIG`, `./llmguard.yaml`, development mode). Raises
    :class:`llmguard.errors.ConfigError` with every mistake found.
    """

    def __init__(self, source: Source | Config = None) -> None:
        self.config = source if isinstance(source, Config) else load(source)
        self._place = place(source)
        self.scope_key = f"llmguard.{id(self):x}"
        """Under this key the doors of this guard tell each other of a request in its scope or environ."""
        self.catalog = Catalog(self.config.origins, self.config.overrides)
        self.routing = build_routing(self.config)
        self.kept: dict[type[object], object] = {}
        """What each kind of door keeps with this guard."""
        self.services: WeakSet[Service | ProcessService] = WeakSet()
        """What runs for this guard in this process."""
        self._planners: WeakSet[Planner] = WeakSet()
        self._terms: Terms = as_written
        self._allowance = KeptAllowance(Path(self.config.spool.path), self.config.store_down.terms)
        self._process: ProcessService | None = None
        self._services = PerLoop(self._start_service, Service.stop)
        self._memory = MemoryStore()
        self.shelf = shelf_of(self.config)
        self._lock = threading.Lock()
        self._forgetter = Forgetter(self._forget)

    def secrets(self) -> Secrets:
        """The guard's own secrets; those missing beside an SQLite ledger are made once."""
        return ensure_secrets(self.config)

    def signer(self) -> Signer:
        """Signs and reads the context that travels with messages and requests."""
        return Signer(self.secrets().signing)

    def vault(self) -> Vault:
        """Names and seals kept replies."""
        return Vault(self.secrets().cache)

    def ledger(self) -> Ledger:
        """The SQL ledger, not yet connected."""
        return Ledger(self.config.ledger, pepper=self.secrets().pepper)

    def books(self, ledger: Ledger) -> LedgerBooks:
        """The ledger together with this configuration's budgets and spools."""
        config = self.config
        rules, keep = (lambda: (self._place, in_force(config))), config.audit.keep
        return LedgerBooks(ledger, Path(config.spool.path), config.budget_rules, own_budget, rules, keep)

    async def check_store(self) -> int:
        """The time of a store on the network, epoch milliseconds. Raises ConfigError for one that would lose spend, and
        StoreUnavailable."""
        store = open_store(self.config.store)
        if isinstance(store, MemoryStore):
            return now_ms()
        try:
            await store.check()
            (answer,) = await store.apply([Known(())])
            return answer.now
        finally:
            await store.aclose()

    def running(self) -> Service | None:
        """The service of the running event loop, None before :meth:`service` was first awaited there."""
        return self._services.here()

    async def service(self) -> Service:
        """The service of this process and event loop, started when it is first asked for and stopped by :meth:`aclose`
        or with the loop. All doors of the loop share it."""
        return await self._services.get()

    async def late_service(self) -> Service:
        """The same, for a request that came before anybody had started it."""
        log.warning(
            "llmguard starts with its first request, since nothing told it of the server's start and end: write "
            "`app = guard.lifespan(app)`, or calls that are open when the server stops wait for the next process"
        )
        return await self.service()

    async def _start_service(self) -> Service:
        owner = _owner()
        parts = self._parts(owner)
        link = self._link()
        owners = ObjectOwners(parts.books.owner)
        replies = self.shelf.asynchronous(self.vault()) if self.shelf is not None else None
        write, tally, notices = parts.spool.append, parts.tally, parts.notices
        runtime = AsyncRuntime(link, write, parts.keyring, owners, tally, Counter(), notices, replies)
        service = Service(owner, runtime, link, parts)
        if replies is not None:
            service.closers.append(replies.close)
        self.services.add(service)
        await service.start()
        return service

    def process(self) -> ProcessService:
        """The service of this process for calls from within it, started when it is first asked for.

        A forked child has one of its own; nothing of its parent's is used there.
        """
        service = self._process
        if service is not None and service.usable:
            return service
        with self._lock:
            if self._process is None or not self._process.usable:
                self._process = self._start_process()
            return self._process

    def _start_process(self) -> ProcessService:
        owner = _owner()
        parts = self._parts(owner, segment=_SMALL)
        link, loops = self._blocking_link()
        replies = self.shelf.blocking(self.vault()) if self.shelf is not None else None
        service = ProcessService(owner, link, parts, ObjectOwners(parts.books.owner), Counter(), loops, replies)
        self.services.add(service)
        service.start()
        return service

    def remaining(self, **scope: str) -> list[Remaining]:
        """How the budgets stand that count for callers of ``scope``, such as ``team="search", env="prod"``.

        A budget of narrower scope is left out. Raises LedgerUnavailable when neither store nor ledger answers.
        """
        return remaining(self.process(), self.config.budget_rules, scope, now_ms())

    async def aremaining(self, **scope: str) -> list[Remaining]:
        """The same for coroutines."""
        return await asyncio.to_thread(lambda: self.remaining(**scope))

    def change_budgets(self, terms: Terms = as_written) -> None:
        """From now on every budget holds in this process as ``terms`` has it, or not at all where that is None; without
        ``terms`` as it is written. For tests."""
        self._terms = terms
        for planner in list(self._planners):
            planner.change(terms)

    def check(self) -> list[Problem]:
        """What stands in the way of this configuration just now: asks store and ledger, makes nothing."""
        return [*_store_problems(self.config), *_ledger_problems(self.config)]

    def close(self) -> None:
        """Put everything on record that this process has done through :meth:`process`. Waits some seconds at most."""
        with self._lock:
            service, self._process = self._process, None
        if service is not None:
            service.stop()
        self._allowance.close()

    async def aclose(self) -> None:
        """The same for coroutines, and the end of the running event loop's :meth:`service`."""
        await self._services.end()
        if self._process is not None:
            await self._process.idle()
        await asyncio.to_thread(self.close)

    def lifespan(self, app: ASGI) -> Lifespan:
        """Have the guard start before and end after an ASGI application: ``app = guard.lifespan(app)``."""
        return Lifespan(app, lambda: self)

    def _forget(self) -> None:
        """In a forked child: another thread of the parent may have held the lock, and what it has in memory is its."""
        self._lock = threading.Lock()
        self.services = WeakSet()
        self._services = PerLoop(self._start_service, Service.stop)
        self._memory = MemoryStore()
        self.shelf = shelf_of(self.config)

    def _link(self) -> Link:
        store = open_store(self.config.store)
        return MemoryLink(self._memory) if isinstance(store, MemoryStore) else RemoteLink(store)

    def _blocking_link(self) -> tuple[BlockingLink, LoopLinks | None]:
        url = self.config.store
        store = open_blocking_store(url)
        if isinstance(store, MemoryStore):
            return BlockingMemoryLink(self._memory), None
        return BlockingLink(store), LoopLinks(lambda: cast("RemoteStore", open_store(url)))

    def receivers(self) -> list[Webhook]:
        """Those who are told of what an operator should look at."""
        keys = [alert_key(secret) for secret in self.secrets().signing]
        return [Webhook(a.url.get_secret_value(), a.on, keys, proxy=a.proxy) for a in self.config.alerts]

    def _parts(self, owner: str, segment: int = _LARGE) -> Parts:
        ledger = self.ledger()
        notices = Notices(ledger, self.receivers(), owner)
        files = self.config.spool
        spool = Spool(Path(files.path), segment_bytes=segment, reserve_bytes=segment, quota_bytes=files.quota)
        shipper = Shipper(spool, ledger.engine)
        return Parts(self.books(ledger), Keyring(ledger.keys), Tally(), spool, shipper, ledger, notices)

    def relay(self, service: Service) -> Relay:
        """The one relay of a started service; its upstreams are closed when the service stops."""
        made = service.kept.get(Relay)
        if isinstance(made, Relay):
            return made
        upstreams = build_upstreams(self.config)
        service.closers.extend(upstream.engine.aclose for upstream in upstreams.values())
        drains = frozenset(name for name in upstreams if self.config.on_disconnect(name) == "drain")
        relay = Relay(service.runtime, self.stages(service.owner), upstreams, mask_secrets, drains)
        service.kept[Relay] = relay
        return relay

    def stages(self, owner: str, *, inside: bool = False, enforcing: bool = True) -> tuple[Stage, ...]:
        """The stages in their one order (see :mod:`llmguard.stages.base`).

        For calls from ``inside`` the process there is no key to verify: their attribution is their context's. Without
        ``enforcing`` all budgets only count, and limits do nothing.
        """
        config = self.config
        taken = _as_it_is if enforcing else _only_counting

        @lru_cache(4096)
        def own(key_id: str, text: str) -> BudgetRule:
            return taken(own_budget(key_id, text))

        planner = Planner([taken(rule) for rule in config.budget_rules], config.limit_rules if enforcing else ())
        planner.change(self._terms)
        self._planners.add(planner)
        policy = QuotaPolicy(owner, own, self._allowance, clamp=config.clamp and enforcing)
        routing = build_routing(config, inside=True) if inside else self.routing
        route = Route(routing, self.catalog, refuse_unknown=config.unknown_model == "refuse")
        first = Attributed() if inside else Authn(self.signer())
        runaway = Runaway(config.runaway.policy, self._allowance)
        quota = Quota(planner, policy)
        exact = config.cache.exact
        kept: tuple[Stage, ...] = () if exact is None else (Cache(exact.policy, quota.gate),)
        audit = config.audit.policy
        heard: tuple[Stage, ...] = () if audit is None else (Audit(audit),)
        return (first, route, Tenancy(), runaway, *kept, quota, Meter(self.catalog), *heard)


_chosen: dict[str, Callable[[], Guard]] = {}
_DEFAULT = "default"


def configure(source: Source | Config = None) -> Guard:
    """Make the guard that :func:`get_guard` returns from now on. Raises ConfigError."""
    guard = Guard(source)
    choose(lambda: guard)
    return guard


def choose(find: Callable[[], Guard]) -> None:
    """Have ``find`` say from now on, each time anew, which guard :func:`get_guard` returns; for frameworks whose
    settings configure it."""
    _chosen[_DEFAULT] = find


@contextmanager
def chosen(guard: Guard) -> Iterator[None]:
    """Inside, :func:`get_guard` returns this one."""
    before = _chosen.get(_DEFAULT)
    choose(lambda: guard)
    try:
        yield
    finally:
        if before is None:
            _chosen.pop(_DEFAULT, None)
        else:
            choose(before)


def get_guard() -> Guard:
    """The guard of those who name none: the one last configured, else one of the default configuration."""
    find = _chosen.get(_DEFAULT)
    if find is None:
        guard = Guard()
        find = _chosen.setdefault(_DEFAULT, lambda: guard)  # threads that come at once get the same
    return find()


def _as_it_is(rule: BudgetRule) -> BudgetRule:
    return rule


def _only_counting(rule: BudgetRule) -> BudgetRule:
    return replace(rule, mode="warn")


def _owner() -> str:
    """How this process names itself to the quota store."""
    return f"{os.getpid()}-{uuid7()}"


def _store_problems(config: Config) -> list[Problem]:
    store = open_blocking_store(config.store)
    if isinstance(store, MemoryStore):
        return []
    try:
        store.check()
    except ConfigError as error:
        return error.problems
    except StoreUnavailable as error:
        return [Problem("store", str(error), "start it, or correct `store:`")]
    finally:
        store.close()
    return []


def _ledger_problems(config: Config) -> list[Problem]:
    file = ledger_file(config.ledger)
    if file is not None and not file.exists():
        return []  # it is made when it is first used
    engine = create_engine(config.ledger)
    try:
        if not migrate.check(engine):
            return [Problem("ledger", "its schema is not this program's", "run `llmguard migrate`")]
    except LedgerUnavailable as error:
        return [Problem("ledger", str(error), "start it, or correct `ledger:`")]
    finally:
        engine.dispose()
    return []
