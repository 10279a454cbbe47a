"""A look at buckets from outside: for what people are shown, never for what a call is decided by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster

from llmguard.core.moves import Level
from llmguard.stores.redis import server
from llmguard.stores.redis.script import prefix

_FIELDS = ("settled", "orphan", "held", "exposure")


def read_levels(url: str, names: Sequence[str], namespace: str = "default") -> dict[str, Level] | None:
    """What calendar and total buckets hold now, by name. Those that do not exist are left out; a cold store is None.

    Amounts are in each bucket's own unit. Calls whose lease has run out count as held until the store's next reserve.
    Raises :class:`~llmguard.errors.StoreUnavailable`.
    """
    options = server.patience(server.TIMEOUT_S)
    client: Any = (
        RedisCluster.from_url(server.plain(url), **options)
        if server.is_cluster(url)
        else Redis.from_url(url, **options)
    )
    with server.answering(url), client:
        return read(client, prefix(namespace), names)


def read(client: Any, keys: str, names: Sequence[str]) -> dict[str, Level] | None:
    """The same through a client that is there; ``keys`` is what every key of the namespace starts with."""
    with client.pipeline(transaction=False) as pipe:
        pipe.get(keys + "epoch")
        for name in names:
            pipe.hmget(keys + "b:" + name, _FIELDS)
        epoch, *rows = pipe.execute()
    if epoch is None:
        return None
    return {
        name: Level(*(int(value or 0) for value in row))
        for name, row in zip(names, rows, strict=True)
        if any(value is not None for value in row)
    }
