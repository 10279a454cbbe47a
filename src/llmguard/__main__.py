"""`python -m llmguard` is the `llmguard` command."""

from llmguard.cli import main

main()
