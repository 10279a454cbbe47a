"""The forwarding path for threads: the same framing, rules and relay as for asyncio, on blocking calls."""
