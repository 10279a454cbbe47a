"""The quota store on Redis or Valkey: budgets shared by processes and machines."""

from llmguard.stores.redis.aio import AsyncRedisStore
from llmguard.stores.redis.blocking import RedisStore

__all__ = ["AsyncRedisStore", "RedisStore"]
