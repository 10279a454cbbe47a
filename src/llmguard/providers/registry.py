"""Every dialect by the name that the route table and the ledger use for it."""

from __future__ import annotations

from llmguard.core.ports import Dialect
from llmguard.providers.anthropic_messages import AnthropicMessages
from llmguard.providers.gemini_embed import GeminiEmbed
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_embeddings import OpenAIEmbeddings
from llmguard.providers.openai_responses import OpenAIResponses
from llmguard.providers.unknown import Unknown

_MAIN: tuple[Dialect, ...] = (OpenAIChat(), AnthropicMessages(), GeminiGenerate())
_OTHERS: tuple[Dialect, ...] = (OpenAIResponses(), OpenAIEmbeddings(), GeminiEmbed())
_DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (*_MAIN, *_OTHERS)}
_DIALECTS["openai_completions"] = _DIALECTS["openai_chat"]  # one dialect speaks both
_UNKNOWN: dict[str, Dialect] = {dialect.family: Unknown(dialect) for dialect in _MAIN}


def dialect(name: str, family: str) -> Dialect:
    """The dialect of a route; what no dialect understands is `unknown`, one for each family."""
    return _UNKNOWN[family] if name == Unknown.name else _DIALECTS[name]
