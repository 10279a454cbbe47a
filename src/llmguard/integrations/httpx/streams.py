"""The bodies of guarded replies: they pass the provider's bytes on while they are metered.

One class for each library and world, made from the two below: httpx looks at a body's base class.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import Any

from llmguard.core.exchange import Ending
from llmguard.integrations.httpx.libraries import Library
from llmguard.integrations.httpx.running import Running, Sweep


class _Body:
    """``source`` is the body as the client got it, ``pieces`` iterates over it."""

    def __init__(self, library: Library, running: Running, sweep: Sweep, source: Any, pieces: Any) -> None:
        self._library = library
        self._running = running
        self._sweep = sweep
        self._source = source
        self._pieces = pieces
        running.drop = self._dropper()
        sweep.watch(running)

    def __del__(self) -> None:
        self._sweep.leave(self._running, drop=True)

    @property
    def elapsed(self) -> Any:
        """How long the request took, where the client keeps it in the body."""
        return getattr(self._source, "elapsed", None)

    def _dropper(self) -> Callable[[], None]:
        return lambda: None

    def _resume(self) -> None:
        if not self._running.busy():
            raise self._library.module.ReadError("this stream was left idle for so long that llmguard has closed it")

    def _failed(self, error: BaseException) -> None:
        gone = not isinstance(error, Exception)
        self._running.end(Ending.CALLER_GONE if gone else Ending.UPSTREAM_FAILED)


class _BlockingBody(_Body):
    """Read in threads."""

    def _dropper(self) -> Callable[[], None]:
        close: Callable[[], None] = self._source.close
        return close

    def __iter__(self) -> Iterator[bytes]:
        running, tap = self._running, self._running.tap
        while (data := self._next()) is not None:
            out = tap.feed(running, data)
            if running.x.due and (refusal := running.service.run(running.x.attend())) is not None:
                self._source.close()
                running.end(Ending.BUDGET_CUT)
                yield out + tap.cut(refusal, running.x.event_id)
                return
            if out:
                running.idle()
                try:
                    yield out
                except GeneratorExit:
                    self._sweep.leave(running, drop=True)
                    raise
        if tail := tap.finish(running):
            yield tail

    def _next(self) -> bytes | None:
        self._resume()
        try:
            return next(self._pieces, None)
        except BaseException as error:  # whatever it is, the call must not stay open
            self._failed(error)
            raise

    def close(self) -> None:
        """The caller needs no more."""
        self._sweep.leave(self._running)
        self._source.close()


class _AwaitedBody(_Body):
    """Read in an event loop."""

    def _dropper(self) -> Callable[[], None]:
        loop, close = asyncio.get_running_loop(), self._source.aclose

        def drop() -> None:
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(close(), loop)

        return drop

    async def __aiter__(self) -> AsyncIterator[bytes]:
        running, tap = self._running, self._running.tap
        while (data := await self._next()) is not None:
            out = tap.feed(running, data)
            if running.x.due and (refusal := await running.service.arun(running.x.attend())) is not None:
                await self._source.aclose()
                running.end(Ending.BUDGET_CUT)
                yield out + tap.cut(refusal, running.x.event_id)
                return
            if out:
                running.idle()
                try:
                    yield out
                except GeneratorExit:
                    self._sweep.leave(running, drop=True)
                    raise
        if tail := tap.finish(running):
            yield tail

    async def _next(self) -> bytes | None:
        self._resume()
        try:
            data: bytes | None = await anext(self._pieces, None)
        except BaseException as error:  # whatever it is, the call must not stay open
            self._failed(error)
            raise
        return data

    async def aclose(self) -> None:
        """The caller needs no more."""
        self._sweep.leave(self._running)
        await self._source.aclose()


@cache
def _kinds(library: Library) -> tuple[type[Any], type[Any]]:
    module = library.module
    blocking = type("GuardedStream", (_BlockingBody, module.SyncByteStream), {})
    return blocking, type("GuardedAsyncStream", (_AwaitedBody, module.AsyncByteStream), {})


def guarded_body(library: Library, running: Running, sweep: Sweep, source: Any, pieces: Any) -> Any:
    """The body to give to the caller in the place of ``source``; ``pieces`` iterates over it where that has begun."""
    blocking, awaited = _kinds(library)
    if isinstance(source, library.module.SyncByteStream):
        return blocking(library, running, sweep, source, iter(source) if pieces is None else pieces)
    return awaited(library, running, sweep, source, aiter(source) if pieces is None else pieces)
