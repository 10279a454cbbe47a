"""Counting tokens offline."""

from llmguard.tokens.counter import Counter

__all__ = ["Counter"]
