"""The published JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Any

from llmguard.config import json_schema


def test_is_json_with_every_section_closed() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"].endswith("2020-12/schema")
    objects = [schema, *schema["$defs"].values()]
    closed = [o for o in objects for part in (o, *o.get("anyOf", ())) if part.get("additionalProperties") is False]
    assert len(closed) == len(objects)


def test_every_field_says_what_it_is_and_shows_a_value() -> None:
    schema = json_schema()
    for section in (schema, *schema["$defs"].values()):
        for name, field in section.get("properties", {}).items():
            assert field.get("description") or "$ref" in field, name
            assert field.get("examples"), name


def test_defaults_and_examples_follow_the_patterns() -> None:
    """A default is shown as a person writes it, and `${VAR}` is allowed wherever text is."""
    seen = 0
    for section in json_schema()["$defs"].values():
        for name, field in section.get("properties", {}).items():
            for pattern in _patterns(field):
                texts = [t for t in (field.get("default"), *field["examples"]) if isinstance(t, str)]
                assert all(re.search(pattern, text) for text in texts), name
                seen += len(texts)
    assert seen > 20


def _patterns(field: dict[str, Any]) -> list[str]:
    if "pattern" in field:
        return [field["pattern"]]
    return [p["pattern"] for p in field.get("anyOf", ()) if "pattern" in p][:1]
