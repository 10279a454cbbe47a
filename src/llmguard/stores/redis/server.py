"""How servers are reached and which ones will do, for the asynchronous and the blocking store alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from llmguard.core.moves import Again, Answer, Move
from llmguard.errors import ConfigError, Problem, StoreUnavailable

TIMEOUT_S = 0.25
"""A server that is silent for longer is away. redis-py would wait 5 s and try 10 times by default."""

GRACE_MS = 20_000
"""Reserves stay cold for this long after a load: owners renew every 15 s and then assert what was forgotten."""

TURN_MS = 60_000
"""A loader that has written nothing for this long loses its turn."""

BATCH = 500
"""Moves per script call; a longer one would keep the server from everybody else."""

FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
"""Everything that redis-py and a socket may raise."""

_FLOOR = (7, 0)


def patience(seconds: float) -> dict[str, Any]:
    """Connection options with explicit timeouts and no retries but our own."""
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }


def is_cluster(url: str) -> bool:
    """Whether the URL names a cluster (``redis+cluster://``, ``rediss+cluster://``)."""
    return urlsplit(url).scheme.endswith("+cluster")


def plain(url: str) -> str:
    """The URL as redis-py knows it."""
    return url.replace("+cluster://", "://", 1)


def name(url: str) -> str:
    """The server's name without its password, for messages."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path


def unavailable(url: str, error: BaseException) -> StoreUnavailable:
    """What a caller is told when the store did not answer."""
    return StoreUnavailable(f"quota store {name(url)} did not answer: {str(error) or type(error).__name__}")


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Turn what a client library raises inside into StoreUnavailable."""
    try:
        yield
    except FAILURES as error:
        raise unavailable(url, error) from error


def demand(url: str, info: Mapping[str, Any]) -> None:
    """Refuse a server that would lose spend or does not know the commands. Raises ConfigError.

    ``info`` is the answer to INFO, of a cluster one per node. Valkey reports the Redis version it is compatible with.
    """
    problems = []
    if is_cluster(url) and "role" not in info:
        for node in info.values():
            demand(url, node)
        return
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _FLOOR:
        problems.append(Problem("store", f"{name(url)} is Redis {version}", "use Redis 7.0, Valkey 7.2 or newer"))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            Problem(
                "store",
                f"{name(url)} has maxmemory-policy {policy} and may throw spend away",
                "set it to noeviction, or use a server of its own",
            )
        )
    if info.get("role", "master") not in ("master", "primary"):
        problems.append(Problem("store", f"{name(url)} is a replica", "name the primary"))
    if problems:
        raise ConfigError(problems)


def batches(moves: Sequence[Move]) -> list[Sequence[Move]]:
    """``moves`` in batches that one script call takes."""
    return [moves[start : start + BATCH] for start in range(0, len(moves), BATCH)] or [moves]


def refused(answers: Sequence[Answer]) -> bool:
    """Whether a piece of a load met a store that another process has taken over."""
    return any(isinstance(answer, Again) for answer in answers)
