"""What a caller wants to remember about a call: a few names and values, kept in its ledger entry.

They attribute nothing. Beside our own header, those of gateways that people come from are read, so that their callers
need not change: Portkey's and Cloudflare's JSON objects, LiteLLM's list of tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_OBJECTS = ("x-llmguard-metadata", "x-portkey-metadata", "cf-aig-metadata")
_TAGS = "x-litellm-tags"
_LONGEST = 2_048
_MOST = 32


class BadMetadata(ValueError):
    """The header cannot be kept; the message says what may be written."""


def read_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a request, the first header that has any; empty without one. Raises :class:`BadMetadata`."""
    for name in _OBJECTS:
        text = headers.get(name)
        if text is not None:
            return _object(name, text)
    tags = headers.get(_TAGS)
    return {"tags": _bounded(_TAGS, tags)} if tags else {}


def _bounded(name: str, text: str) -> str:
    if len(text) > _LONGEST:
        raise BadMetadata(f"{name} may have at most {_LONGEST} characters")
    return text


def _object(name: str, text: str) -> dict[str, str]:
    right = f'{name} must be a JSON object of at most {_MOST} short values, such as {{"job": "nightly"}}'
    try:
        found = json.loads(_bounded(name, text))
    except (json.JSONDecodeError, RecursionError):
        raise BadMetadata(right) from None
    if not isinstance(found, dict) or len(found) > _MOST:
        raise BadMetadata(right)
    if not all(isinstance(value, (str, int, float, bool)) for value in found.values()):
        raise BadMetadata(right)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}
