"""The `llmguard` command."""

from llmguard.cli.root import main

__all__ = ["main"]
