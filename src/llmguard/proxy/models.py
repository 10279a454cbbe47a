"""The list of models, in the shape of whichever API the caller speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from llmguard.core.decision import Refuse

_EPOCH = "1970-01-01T00:00:00Z"
"""The guard does not know when a model was released; the shapes want a time."""

Item = Callable[[str, str], dict[str, Any]]


def _openai(name: str, provider: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}


def _anthropic(name: str, provider: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": _EPOCH}


def _gemini(name: str, provider: str) -> dict[str, Any]:
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": ["generateContent"]}


_ITEMS: dict[str, Item] = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}


class ModelList:
    """The names that callers may use, as (name, provider) pairs."""

    def __init__(self, names: Sequence[tuple[str, str]]) -> None:
        self._names = dict(names)

    def answer(self, family: str, model: str | None) -> dict[str, Any] | Refuse:
        """The whole list, or one model of it; 404 `unknown_model` for a name that is not in it."""
        item = _ITEMS.get(family, _openai)
        if model is not None:
            name = unquote(model)
            provider = self._names.get(name)
            if provider is None:
                return Refuse("unknown_model", 404, f"no model {name!r} is listed here", param="model")
            return item(name, provider)
        items = [item(name, provider) for name, provider in self._names.items()]
        if family == "gemini":
            return {"models": items}
        if family == "anthropic":
            first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
            return {"data": items, "has_more": False, "first_id": first, "last_id": last}
        return {"object": "list", "data": items}
