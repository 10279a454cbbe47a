"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmguard.core.call import Call, Edits, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.errors import BadCall
from llmguard.providers import objects
from llmguard.providers.base import (
    MOST_SEARCHES,
    decode,
    encode,
    most_searches,
    splice,
    take_bool,
    take_int,
    take_list,
    take_object,
    take_str,
    wrong,
)
from llmguard.providers.openai_common import FAMILY, MAX_OUTPUT, end_user, hides_output, model_name, refusal
from llmguard.providers.openai_content import TOOL_TOKENS, Content, part_texts
from llmguard.providers.openai_responses_reader import ResponsesReader

_LOCAL_TOOLS = frozenset(("function", "custom", "apply_patch", "local_shell", "computer", "computer_use_preview"))
_PLAIN_ITEMS = frozenset(
    (
        "apply_patch_call",
        "compaction",
        "computer_call",
        "custom_tool_call",
        "file_search_call",
        "function_call",
        "local_shell_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "shell_call",
        "tool_search_call",
        "web_search_call",
    )
)
_OUTPUT_ITEMS = frozenset(
    (
        "apply_patch_call_output",
        "computer_call_output",
        "custom_tool_call_output",
        "function_call_output",
        "local_shell_call_output",
        "shell_call_output",
    )
)
_TOOL_ITEMS = frozenset(("additional_tools", "tool_search_output"))
_ITEM_TEXTS = ("name", "arguments", "input", "encrypted_content")

_WEB_SEARCHES = ("web_search", "x_search", "attachment_search")
_FILE_SEARCHES = frozenset(("file_search", "collections_search"))

RESEARCH_SEARCHES = 200
"""Searches of a deep-research model whose call names no limit; such answers have dozens."""
TOKENS_PER_ITEM = 4
REPLY_PRIMING = 3


class OpenAIResponses:
    """The dialect of ``/v1/responses``."""

    name = "openai_responses"
    family = FAMILY

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request. Raises :class:`BadCall` where a field that counts has the wrong form."""
        body = request.body
        doc = decode(body)
        name = model_name(doc, model)
        _refuse_background(doc)
        prompt = _Prompt(name)
        prompt.read(doc)
        content = prompt.content
        reads = (*content.reads, *(objects.OPENAI.named(body, {"": prompt.unknown}) if prompt.unknown else ()))
        reasoning = take_object(doc, "reasoning") or {}
        return Call(
            self.name,
            FAMILY,
            endpoint,
            request.method,
            request.path,
            request.query,
            request.headers,
            body,
            name,
            doc,
            stream=take_bool(doc, "stream") or False,
            max_tokens=take_int(doc, "max_output_tokens", minimum=1, maximum=MAX_OUTPUT),
            end_user=end_user(doc),
            prompt_bytes=len(body) - content.inline,
            extra_input_tokens=content.tokens,
            server_context=content.unseen or reasoning.get("mode") == "pro",
            writes_cache=True,
            audio=content.audio,
            hidden_output=hides_output(name, reasoning.get("effort")),
            service_tier=take_str(doc, "service_tier"),
            web_searches=_most_searches(doc, name) if content.searches_web else 0,
            file_searches=_most_searches(doc, name) if content.searches_files else 0,
            reads=tuple(dict.fromkeys(reads)),
            creates=None if take_bool(doc, "store") is False else "response",
        )

    def texts(self, call: Call) -> Sequence[str]:
        """The prompt's text parts. Tool definitions count as their JSON, which is more than the provider's own form."""
        doc = call.doc or {}
        texts = [doc[name] for name in ("instructions", "input") if type(doc.get(name)) is str]
        texts += [encode(doc[name]).decode() for name in ("tools", "text") if doc.get(name)]
        prompt = doc.get("prompt")
        if type(prompt) is dict and type(prompt.get("variables")) is dict:
            texts += part_texts(list(prompt["variables"].values()))
        items = doc.get("input")
        for item in items if type(items) is list else ():
            texts += _item_texts(item)
        return texts

    def overhead_tokens(self, call: Call) -> int:
        """Tokens of the framing: those of chat messages (three each and three for the reply), and one for a name."""
        items = (call.doc or {}).get("input")
        return REPLY_PRIMING + TOKENS_PER_ITEM * (1 + (len(items) if type(items) is list else 1))

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with ``edits`` made. Usage always comes with the last event, so it is never asked for."""
        doc = call.doc or {}
        changes: dict[str, bytes] = {}
        if edits.model is not None and "model" in doc:
            changes["model"] = encode(edits.model)
        if edits.max_tokens is not None:
            changes["max_output_tokens"] = encode(edits.max_tokens)
        return splice(call.body, changes, present=doc) if changes else call.body

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader for the reply."""
        return ResponsesReader(call)

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """The body of an error reply."""
        return refusal(refuse, request_id)


def _refuse_background(doc: dict[str, Any]) -> None:
    if take_bool(doc, "background"):
        message = "'background' must be false: what a response costs after its call has ended could not be settled."
        raise BadCall(message, code="unsupported_value", param="background")


class _Prompt:
    """Walks through everything that becomes the prompt. ``unknown`` are items and tools that may name any object."""

    __slots__ = ("content", "unknown")

    def __init__(self, model: str) -> None:
        self.content = Content(model)
        self.unknown: list[Any] = []

    def read(self, doc: dict[str, Any]) -> None:
        take_str(doc, "instructions")
        items = doc.get("input")
        if type(items) is list:
            for item in items:
                self._item(item)
        elif items is not None and type(items) is not str:
            raise wrong("input", items, "a string or an array of items")
        self._tools(take_list(doc, "tools"), "tools")
        self._kept("response", take_str(doc, "previous_response_id"))
        conversation = doc.get("conversation")
        if type(conversation) is dict:
            conversation = take_str(conversation, "id", param="conversation.id")
        elif conversation is not None and type(conversation) is not str:
            raise wrong("conversation", conversation, "an id or an object with an id")
        self._kept("conversation", conversation)
        template = take_object(doc, "prompt")
        if template:
            self._kept("prompt", take_str(template, "id", param="prompt.id"))
            variables = take_object(template, "variables", param="prompt.variables") or {}
            self.content.parts(variables.values(), "prompt.variables")

    def _kept(self, kind: str, name: str | None) -> None:
        """Input that the provider keeps."""
        if name:
            self.content.named(kind, name)
            self.content.unseen = True

    def _item(self, item: Any) -> None:
        if type(item) is not dict:
            raise wrong("input", item, "a string or an array of items")
        kind = item.get("type")
        if kind is None or kind == "message":
            self._message(item)
        elif type(kind) is not str:
            raise wrong("input.type", kind, "a string")
        elif kind in _OUTPUT_ITEMS:
            self._output(item.get("output"))
        elif kind not in _PLAIN_ITEMS:
            self._special(kind, item)

    def _message(self, item: dict[str, Any]) -> None:
        content = item.get("content")
        if type(content) is list:
            self.content.parts(content, "input.content")
        elif content is None and "type" not in item:
            self._kept("item", take_str(item, "id", param="input.id"))
        elif content is not None and type(content) is not str:
            raise wrong("input.content", content, "a string or an array of content parts")

    def _output(self, output: Any) -> None:
        """The result of a tool that the caller ran: a string, parts, or a screenshot."""
        if type(output) is list or type(output) is dict:
            self.content.parts(output if type(output) is list else (output,), "input.output")

    def _special(self, kind: str, item: dict[str, Any]) -> None:
        """Items that may stand for something the provider keeps."""
        name = take_str(item, "id", param="input.id")
        if kind == "item_reference":
            self._kept("item", name)
        elif kind == "reasoning":
            if not item.get("encrypted_content") and not item.get("content"):
                self._kept("item", name)
        elif kind == "image_generation_call":
            result = take_str(item, "result", param="input.result")
            self.content.image("data:" + result if result else "")
            if not result:
                self._kept("item", name)
        elif kind == "code_interpreter_call":
            self.content.named("container", take_str(item, "container_id", param="input.container_id"))
        elif kind in _TOOL_ITEMS:
            self._tools(take_list(item, "tools", param="input.tools"), "input.tools")
        else:
            self.content.unseen = True
            self.unknown.append(item)

    def _tools(self, tools: list[Any] | None, where: str) -> None:
        """Tools cost a description; those that run at the provider feed what they find back into the prompt."""
        if tools:
            self.content.tokens += TOOL_TOKENS
        for tool in tools or ():
            if type(tool) is not dict:
                raise wrong(where, tool, "an array of tool objects")
            kind = tool.get("type")
            if kind == "namespace":
                self._tools(take_list(tool, "tools", param=where), where)
            elif kind not in _LOCAL_TOOLS if type(kind) is str else kind is not None:
                self.content.unseen = True
                self.unknown.append(tool)
                self._searches(kind)

    def _searches(self, kind: Any) -> None:
        if type(kind) is str:
            self.content.searches_files = self.content.searches_files or kind in _FILE_SEARCHES
            self.content.searches_web = self.content.searches_web or kind.startswith(_WEB_SEARCHES)


def _most_searches(doc: dict[str, Any], model: str) -> int:
    named = take_int(doc, "max_tool_calls", minimum=1, maximum=MAX_OUTPUT)
    return most_searches(named, RESEARCH_SEARCHES if "deep-research" in model else MOST_SEARCHES)


def _item_texts(item: dict[str, Any]) -> list[str]:
    texts = part_texts(item.get("content")) + part_texts(item.get("output")) + part_texts(item.get("summary"))
    texts += [item[name] for name in _ITEM_TEXTS if type(item.get(name)) is str]
    if item.get("tools"):
        texts.append(encode(item["tools"]).decode())
    return texts
