"""OpenAI chat completions, and the older text completions that share its reply format.

Spoken by OpenAI and by nearly everybody else, each with additions of their own; what is not interpreted here passes
unchanged. ``models`` and ``preset`` are refused: they let a router serve a model that was never priced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from llmguard.core.call import Call, Edits, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.errors import BadCall
from llmguard.providers.base import (
    MOST_SEARCHES,
    decode,
    encode,
    member,
    splice,
    take_bool,
    take_int,
    take_list,
    take_object,
    take_str,
    wrong,
)
from llmguard.providers.openai_chat_reader import ChatReader
from llmguard.providers.openai_common import (
    FAMILY,
    MAX_CHOICES,
    MAX_MODEL_NAME,
    MAX_OUTPUT,
    always_searches,
    end_user,
    hides_output,
    is_reasoning_model,
    model_name,
    refusal,
)
from llmguard.providers.openai_content import TOOL_TOKENS, Content, part_texts

_UNCOMMON = frozenset(
    (
        "best_of",
        "functions",
        "include_reasoning",
        "modalities",
        "models",
        "n",
        "plugins",
        "preset",
        "reasoning",
        "reasoning_format",
        "response_format",
        "search_parameters",
        "tools",
        "web_search_options",
    )
)
_OWN = frozenset(("messages", "user", "safety_identifier"))
_MOST_SETTINGS = 1_024
_LIMITS = ("max_completion_tokens", "max_tokens")
_UNLIMITED = -1  # llama.cpp and LM Studio
_LOCAL_TOOLS = (None, "function", "custom")
_FRAMED = ("tools", "functions", "response_format")
_SERVER_TOOLS = ("web_search_options", "search_parameters", "plugins")
_REROUTING = ("models", "preset")

TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_TOOL_CALL = 8
REPLY_PRIMING = 3


Settings = tuple[Any, ...]


class OpenAIChat:
    """The dialect of ``/v1/chat/completions`` and ``/v1/completions``."""

    name = "openai_chat"
    family = FAMILY

    def __init__(self) -> None:
        self._understood: dict[Settings, Call] = {}

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request. Raises :class:`BadCall` where a field that counts has the wrong form.

        Of calls that hold nothing but text, those with the same settings are understood alike: only the text's length
        and the user are their own.
        """
        body = request.body
        doc = decode(body)
        settings = _settings(doc, endpoint, model) if _is_text(doc) else None
        alike = self._understood.get(settings) if settings is not None else None
        if alike is None:
            call = self._understand(request, doc, endpoint, model)
            if settings is not None:
                if len(self._understood) >= _MOST_SETTINGS:
                    self._understood.clear()
                self._understood[settings] = replace(call)
            return call
        return replace(
            alike,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            body=body,
            doc=doc,
            prompt_bytes=len(body),
            end_user=end_user(doc),
            memo={},
            metadata={},
        )

    def _understand(self, request: Request, doc: dict[str, Any], endpoint: str, model: str | None) -> Call:
        name = model_name(doc, model)
        content = Content(name)
        content.searches_web = always_searches(name)
        _look_at_messages(doc, content)
        choices = 1 if endpoint.endswith("/chat/completions") else _count_prompts(doc)
        hidden = hides_output(name, doc.get("reasoning_effort"))
        if not _UNCOMMON.isdisjoint(doc):
            _refuse_rerouting(doc)
            _look_at_tools(doc, content)
            choices *= _answers(doc)
            hidden = hidden or _hides_reasoning(doc)
        stream = take_bool(doc, "stream") or False
        options = take_object(doc, "stream_options")
        usage_chunk = options and take_bool(options, "include_usage", param="stream_options.include_usage")
        return Call(
            self.name,
            FAMILY,
            endpoint,
            request.method,
            request.path,
            request.query,
            request.headers,
            request.body,
            name,
            doc,
            stream,
            _max_tokens(doc),
            choices,
            wants_usage_chunk=not stream or bool(usage_chunk),
            end_user=end_user(doc),
            prompt_bytes=len(request.body) - content.inline,
            extra_input_tokens=content.tokens,
            server_context=content.unseen,
            writes_cache=True,
            audio=content.audio,
            hidden_output=hidden,
            service_tier=take_str(doc, "service_tier"),
            web_searches=MOST_SEARCHES if content.searches_web else 0,
            reads=content.reads,
            creates="chat_completion" if take_bool(doc, "store") else None,
        )

    def texts(self, call: Call) -> Sequence[str]:
        """The prompt's text parts. Tool definitions count as their JSON, which is more than the provider's own form."""
        doc = call.doc or {}
        texts = _prompts(doc.get("prompt"))
        for message in doc.get("messages") or ():
            texts += _message_texts(message)
        texts += [encode(doc[name]).decode() for name in _FRAMED if doc.get(name)]
        return texts

    def overhead_tokens(self, call: Call) -> int:
        """Tokens of the message framing, and of prompts given as token numbers.

        Three a message, one a name and three to prime the reply (OpenAI cookbook, "How to count tokens with
        tiktoken"); eight a tool call, on the safe side.
        """
        doc = call.doc or {}
        tokens = REPLY_PRIMING + _token_numbers(doc.get("prompt"))
        for message in doc.get("messages") or ():
            calls = message.get("tool_calls")
            tokens += TOKENS_PER_MESSAGE + (TOKENS_PER_NAME if message.get("name") else 0)
            tokens += TOKENS_PER_TOOL_CALL * len(calls) if type(calls) is list else 0
        return tokens

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with ``edits`` made.

        A lowered limit goes where the caller put its own. A caller that named none gets ``max_completion_tokens`` for
        OpenAI's reasoning models, which know no other, and else ``max_tokens``, which every provider knows.
        """
        doc = call.doc or {}
        changes: dict[str, bytes] = {}
        if edits.model is not None and "model" in doc:
            changes["model"] = encode(edits.model)
        if edits.max_tokens is not None:
            named = [name for name in _LIMITS if doc.get(name) is not None]
            for name in named or [_limit_name(call, edits.model or call.model)]:
                changes[name] = encode(edits.max_tokens)
        if edits.ask_usage and call.stream:
            changes["stream_options"] = _asking(call.body, doc)
        return splice(call.body, changes, present=doc) if changes else call.body

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader for the reply."""
        return ChatReader(call, asked_usage=asked_usage)

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """The body of an error reply."""
        return refusal(refuse, request_id)


def _is_text(doc: dict[str, Any]) -> bool:
    """Whether the prompt is messages of plain text."""
    messages = doc.get("messages")
    if type(messages) is not list or "prompt" in doc:
        return False
    for message in messages:
        if type(message) is not dict or type(message.get("content")) is not str or "audio" in message:
            return False
    return True


def _settings(doc: dict[str, Any], endpoint: str, model: str | None) -> Settings | None:
    """All members but the text and the user, each with its type, because to Python 1 is True; None where some are not
    plain values."""
    settings: list[Any] = [endpoint, model]
    for name, value in doc.items():
        kind = type(value)
        if name in _OWN:
            continue
        if name == "stream_options":
            value = repr(value)
        elif kind is dict or kind is list:
            return None
        if type(value) is str and len(value) > MAX_MODEL_NAME:
            return None
        settings += (name, kind, value)
    return tuple(settings)


def _refuse_rerouting(doc: dict[str, Any]) -> None:
    for name in _REROUTING:
        if doc.get(name):
            message = f"'{name}' is not accepted: name one model; the gateway's configuration names its fallbacks."
            raise BadCall(message, code="unsupported_field", param=name)


def _look_at_messages(doc: dict[str, Any], content: Content) -> None:
    for message in take_list(doc, "messages") or ():
        if type(message) is not dict:
            raise wrong("messages", message, "an array of message objects")
        inner = message.get("content")
        if type(inner) is list:
            content.parts(inner, "messages.content")
        elif type(inner) is not str and inner is not None:
            raise wrong("messages.content", inner, "a string or an array of content parts")
        if "audio" in message:
            _earlier_audio(message, content)


def _earlier_audio(message: dict[str, Any], content: Content) -> None:
    """An earlier spoken answer, named by id instead of being sent again."""
    audio = take_object(message, "audio", param="messages.audio")
    if audio:
        content.named("audio", take_str(audio, "id", param="messages.audio.id"))
        content.unseen = True


def _look_at_tools(doc: dict[str, Any], content: Content) -> None:
    """Tools cost a description, those that run at the provider what they find, and speech has its own price."""
    for tool in take_list(doc, "tools") or ():
        if type(tool) is not dict:
            raise wrong("tools", tool, "an array of tool objects")
        kind = tool.get("type")
        if kind not in _LOCAL_TOOLS:
            content.unseen = True
            content.searches_web = content.searches_web or "search" in str(kind)
    if any(map(doc.get, _FRAMED)):
        content.tokens += TOOL_TOKENS
    if any(doc.get(name) is not None for name in _SERVER_TOOLS):
        content.unseen = content.searches_web = True
    if "audio" in (take_list(doc, "modalities") or ()):
        content.audio = True


def _hides_reasoning(doc: dict[str, Any]) -> bool:
    """Reasoning that the caller asks for but not to see: in OpenRouter's words, and in Groq's."""
    reasoning = doc.get("reasoning")
    if type(reasoning) is dict and (reasoning.get("exclude") or reasoning.get("effort") not in (None, "none")):
        return True
    return doc.get("reasoning_format") == "hidden" or doc.get("include_reasoning") is False


def _answers(doc: dict[str, Any]) -> int:
    """Answers generated for one prompt; of ``best_of`` only ``n`` are returned, but all are billed."""
    choices = take_int(doc, "n", minimum=1, maximum=MAX_CHOICES) or 1
    return max(choices, take_int(doc, "best_of", minimum=0, maximum=MAX_CHOICES) or 1)


def _count_prompts(doc: dict[str, Any]) -> int:
    """How many prompts a text completion holds: one, or a list of strings or of token lists."""
    prompt = doc.get("prompt")
    if prompt is None or type(prompt) is str:
        return 1
    if type(prompt) is not list:
        raise wrong("prompt", prompt, "a string or an array")
    return len(prompt) if prompt and type(prompt[0]) is not int else 1


def _max_tokens(doc: dict[str, Any]) -> int | None:
    """The larger one where both limits are named, since providers differ about which of them counts."""
    newer = take_int(doc, "max_completion_tokens", minimum=_UNLIMITED, maximum=MAX_OUTPUT)
    older = take_int(doc, "max_tokens", minimum=_UNLIMITED, maximum=MAX_OUTPUT)
    if newer == _UNLIMITED or older == _UNLIMITED:
        return None
    return older if newer is None else newer if older is None else max(newer, older)


def _limit_name(call: Call, model: str) -> str:
    chat = call.endpoint.endswith("/chat/completions")
    return "max_completion_tokens" if chat and is_reasoning_model(model) else "max_tokens"


def _asking(body: bytes, doc: dict[str, Any]) -> bytes:
    """The caller's ``stream_options`` with usage asked for."""
    options = doc.get("stream_options")
    wanted = {"include_usage": b"true"}
    return splice(member(body, "stream_options"), wanted, present=options) if options else b'{"include_usage":true}'


def _message_texts(message: dict[str, Any]) -> list[str]:
    texts = part_texts(message.get("content"))
    texts += [message[name] for name in ("name", "reasoning_content") if type(message.get(name)) is str]
    calls = message.get("tool_calls")
    if calls:
        texts.append(encode(calls).decode())
    return texts


def _prompts(prompt: Any) -> list[str]:
    if type(prompt) is str:
        return [prompt]
    return [text for text in prompt if type(text) is str] if type(prompt) is list else []


def _token_numbers(prompt: Any) -> int:
    if type(prompt) is not list:
        return 0
    return sum(1 if type(item) is int else len(item) if type(item) is list else 0 for item in prompt)
