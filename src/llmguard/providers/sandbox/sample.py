"""The smallest value that fits a JSON schema: arguments of tool calls and structured replies of the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DEEPEST = 32
LARGEST = 1000

_SIMPLE: dict[str, Callable[[str], Any]] = {
    "string": lambda word: word,
    "integer": lambda word: 1,
    "number": lambda word: 1,
    "boolean": lambda word: True,
    "null": lambda word: None,
}


def sample(schema: Any, word: str) -> Any:
    """A value for ``schema`` (JSON Schema, or Gemini's with upper-case types); strings in it are ``word``.

    Reads `type`, `properties`, `items`, `minItems`, `enum`, `const`, `anyOf`, `oneOf` and local `$ref`; other
    constraints (patterns, bounds) are not met. A schema that refers to itself without end is cut off.
    """
    return _Sampler(schema if isinstance(schema, Mapping) else {"type": "object"}, word).root_value()


class _Sampler:
    def __init__(self, root: Mapping[str, Any], word: str) -> None:
        self._root = root
        self._word = word
        self._left = LARGEST

    def root_value(self) -> Any:
        return self._value(self._root, 0)

    def _value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, Mapping) or self._left < 0 or depth > DEEPEST:
            return self._word
        if "$ref" in schema:
            return self._value(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        for name in ("enum", "anyOf", "oneOf"):
            if isinstance(schema.get(name), list) and schema[name]:
                first = schema[name][0]
                return first if name == "enum" else self._value(first, depth + 1)
        kind = _kind(schema)
        if kind == "object":
            properties = schema.get("properties")
            fields = properties if isinstance(properties, Mapping) else {}
            return {name: self._value(field, depth + 1) for name, field in fields.items()}
        if kind == "array":
            return [self._value(schema.get("items"), depth + 1)] if schema.get("minItems") else []
        return _SIMPLE.get(kind, _SIMPLE["string"])(self._word)

    def _resolve(self, pointer: Any) -> Any:
        found: Any = self._root
        for step in filter(None, str(pointer).removeprefix("#").split("/")):
            found = found.get(step) if isinstance(found, Mapping) else None
        return found


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    if isinstance(kind, str):
        return kind.lower()
    return "object" if "properties" in schema else "string"
