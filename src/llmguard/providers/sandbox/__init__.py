"""The built-in provider: speaks every family without a network, the same reply for the same prompt, usage included.

A model's name chooses what happens besides the reply (:mod:`.behaviour`); how tokens are counted is told in
:mod:`.draft`. Nothing here waits: an :class:`Answer` says what to send and how slowly, an engine does it.
"""

from llmguard.providers.sandbox.answer import Answer, Ask, error
from llmguard.providers.sandbox.behaviour import MODELS, Behaviour, behaviour
from llmguard.providers.sandbox.respond import respond
from llmguard.providers.sandbox.shelf import Shelf

__all__ = ["MODELS", "Answer", "Ask", "Behaviour", "Shelf", "behaviour", "error", "respond"]
