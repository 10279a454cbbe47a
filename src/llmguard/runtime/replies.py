"""Kept replies for those who run calls: names, seals and waiting, over a back end that may be away.

A cache that does not answer is a miss, and so is an entry that does not open: no call fails for it, or waits for it
longer than a quarter of a second. A call that waits for another's reply looks again and again, in growing steps; of
those that wait in one event loop only one looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from llmguard.core.effects import Found, GiveUp, Keep, Seek
from llmguard.stores.cache import AsyncBackend, Backend, Look, Vault
from llmguard.stores.cache.ports import CacheAway

log = logging.getLogger("llmguard.cache")

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a call waits for the reply that another one is fetching, before it goes itself."""
_BEARABLE = 40
"""Looks without an answer before whoever waits gives up: two seconds."""
_STEPS = (0.005, 0.01, 0.02, 0.05)


def _steps() -> Iterator[float]:
    """Seconds between two looks, while patience lasts."""
    waited, number = 0.0, 0
    while waited < PATIENCE_S:
        step = _STEPS[min(number, len(_STEPS) - 1)]
        yield step
        waited, number = waited + step, number + 1


def _bear(faults: int, error: CacheAway) -> int:
    """One more look without an answer; too many of them raise."""
    if faults == _BEARABLE:
        raise error
    return faults + 1


def _opened(vault: Vault, effect: Seek, names: list[str], look: Look) -> Found:
    if look.blob is None:
        return Found(claimed=look.claimed)
    return Found(vault.unseal(effect.owner, names[look.index], look.index, look.blob))


class BlockingReplies:
    """For threads, and for coroutines of any loop in a process that has threads. What is kept is written by a thread of
    its own, so that nobody waits for it."""

    def __init__(self, backend: Backend, vault: Vault) -> None:
        self._backend = backend
        self._vault = vault
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="llmguard-cache")

    def seek(self, effect: Seek) -> Found:
        """Look, and wait in this thread for another call's reply."""
        names = self._vault.names(effect.owner, effect.name)
        try:
            look, faults = self._backend.look(names, effect.rid), 0
            for step in _steps():
                if look.blob is not None or look.claimed:
                    break
                time.sleep(step)
                try:
                    look = self._backend.look(names, effect.rid)
                except CacheAway as error:
                    faults = _bear(faults, error)
        except CacheAway as error:
            log.info("%s", error)
            return Found()
        return _opened(self._vault, effect, names, look)

    async def aseek(self, effect: Seek) -> Found:
        """The same for coroutines: threads look, and none of them waits."""
        names = self._vault.names(effect.owner, effect.name)
        try:
            look, faults = await asyncio.to_thread(self._backend.look, names, effect.rid), 0
            for step in _steps():
                if look.blob is not None or look.claimed:
                    break
                await asyncio.sleep(step)
                try:
                    look = await asyncio.to_thread(self._backend.look, names, effect.rid)
                except CacheAway as error:
                    faults = _bear(faults, error)
        except CacheAway as error:
            log.info("%s", error)
            return Found()
        return _opened(self._vault, effect, names, look)

    def keep(self, effect: Keep) -> None:
        """Keep a reply, soon."""
        self._soon(self._keep, effect)

    def give_up(self, effect: GiveUp) -> None:
        """End a claim, soon."""
        self._soon(self._give_up, effect)

    def close(self) -> None:
        """Write what waits."""
        self._writer.shutdown()

    def _soon(self, work: Callable[[T], None], effect: T) -> None:
        try:
            self._writer.submit(work, effect)
        except RuntimeError:  # at the end of the process there are no new threads
            work(effect)

    def _keep(self, effect: Keep) -> None:
        name = self._vault.names(effect.owner, effect.name)[0]
        try:
            self._backend.put(name, self._vault.seal(effect.owner, name, effect.kept), effect.ttl_ms, effect.rid)
        except CacheAway as error:
            log.info("%s", error)
            self._give_up(GiveUp(effect.name, effect.owner, effect.rid))  # a full server keeps nothing, but it forgets

    def _give_up(self, effect: GiveUp) -> None:
        try:
            self._backend.give_up(self._vault.names(effect.owner, effect.name)[0], effect.rid)
        except CacheAway as error:
            log.info("%s", error)


class AsyncReplies:
    """For one event loop. What is kept travels in a task of its own, so that nobody waits for it."""

    def __init__(self, backend: AsyncBackend, vault: Vault) -> None:
        self._backend = backend
        self._vault = vault
        self._lookouts: dict[str, asyncio.Future[None]] = {}
        self._sent: set[asyncio.Task[None]] = set()

    async def seek(self, effect: Seek) -> Found:
        """Look, and wait for another call's reply."""
        names = self._vault.names(effect.owner, effect.name)
        try:
            look = await self._backend.look(names, effect.rid)
            if look.blob is None and not look.claimed:
                look = await self._wait(names, effect.rid)
        except CacheAway as error:
            log.info("%s", error)
            return Found()
        return _opened(self._vault, effect, names, look)

    async def _wait(self, names: list[str], rid: str) -> Look:
        """Until there is a reply or the claim on it is ours; one of those who wait for a name looks for all."""
        end = time.monotonic() + PATIENCE_S
        while (ahead := self._lookouts.get(names[0])) is not None and (left := end - time.monotonic()) > 0:
            await asyncio.wait([ahead], timeout=left)
            look = await self._backend.look(names, rid)
            if look.blob is not None or look.claimed:
                return look
        mine = self._lookouts[names[0]] = asyncio.get_running_loop().create_future()
        look, faults = Look(None), 0
        try:
            for step in _steps():
                await asyncio.sleep(step)
                try:
                    look = await self._backend.look(names, rid)
                except CacheAway as error:
                    faults = _bear(faults, error)
                if look.blob is not None or look.claimed:
                    break
            return look
        finally:
            if self._lookouts.get(names[0]) is mine:
                del self._lookouts[names[0]]
            mine.set_result(None)

    def keep(self, effect: Keep) -> None:
        """Keep a reply, soon."""
        self._send(self._keep(effect))

    def give_up(self, effect: GiveUp) -> None:
        """End a claim, soon."""
        self._send(self._give_up(effect))

    async def close(self) -> None:
        """Wait for what is on its way, and give back connections."""
        if self._sent:
            await asyncio.wait(self._sent, timeout=1.0)
        await self._backend.aclose()

    def _send(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    async def _keep(self, effect: Keep) -> None:
        name = self._vault.names(effect.owner, effect.name)[0]
        try:
            blob = self._vault.seal(effect.owner, name, effect.kept)
            await self._backend.put(name, blob, effect.ttl_ms, effect.rid)
        except CacheAway as error:
            log.info("%s", error)
            await self._give_up(GiveUp(effect.name, effect.owner, effect.rid))  # as above

    async def _give_up(self, effect: GiveUp) -> None:
        try:
            await self._backend.give_up(self._vault.names(effect.owner, effect.name)[0], effect.rid)
        except CacheAway as error:
            log.info("%s", error)
