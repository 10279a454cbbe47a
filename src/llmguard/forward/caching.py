"""From the configuration to the cache of kept replies."""

from __future__ import annotations

from llmguard.config import Config
from llmguard.runtime.replies import AsyncReplies, BlockingReplies
from llmguard.stores.cache import Backend, MemoryCache, Vault, open_blocking_cache, open_cache
from llmguard.stores.cache.bridges import Immediate


class Shelf:
    """The kept replies of one guard. In memory they are one shelf for all doors of a process."""

    def __init__(self, config: Config) -> None:
        exact = config.cache.exact
        assert exact is not None
        self._url = exact.store or config.store
        self._room = exact.max_size
        self._memory = MemoryCache(self._room)

    def backend(self) -> Backend:
        """The back end for threads and commands."""
        found = open_blocking_cache(self._url, self._room)
        return self._memory if isinstance(found, MemoryCache) else found

    def blocking(self, vault: Vault) -> BlockingReplies:
        """For threads."""
        return BlockingReplies(self.backend(), vault)

    def asynchronous(self, vault: Vault) -> AsyncReplies:
        """For one event loop."""
        found = open_cache(self._url, self._room)
        return AsyncReplies(Immediate(self._memory) if isinstance(found, MemoryCache) else found, vault)


def shelf_of(config: Config) -> Shelf | None:
    """The shelf, None where nothing is to be kept."""
    return None if config.cache.exact is None else Shelf(config)
