"""The tables of docs/configuration.md, made from the configuration's own models.

`python -m tests.support.config_tables` writes them anew; a test compares them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from llmguard.config import Config
from llmguard.config.auditing import Auditing
from llmguard.config.caching import Caching, ExactCache
from llmguard.config.rules import Alias, Budget, Limit, ModelTarget, PriceOverride
from llmguard.config.sections import Provider, SecretKeys, Section, Server, SpoolFiles, StoreDown, Streams, TimeLimits
from llmguard.config.watch import Alert, Runaway

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SECTIONS: dict[str, type[Section]] = {
    "": Config,
    "server": Server,
    "secrets": SecretKeys,
    "spool": SpoolFiles,
    "providers.NAME": Provider,
    "providers.NAME.timeouts": TimeLimits,
    "models.NAME": Alias,
    "models.NAME.targets[]": ModelTarget,
    "prices.PATTERN": PriceOverride,
    "budgets[]": Budget,
    "limits[]": Limit,
    "store_down": StoreDown,
    "alerts[]": Alert,
    "runaway": Runaway,
    "cache": Caching,
    "cache.exact": ExactCache,
    "audit": Auditing,
    "streams": Streams,
}
_TABLE = re.compile(r"<!-- keys:(\S*) -->\n.*?<!-- end -->", re.DOTALL)


def page() -> str:
    """The page with every table as it should be."""
    return _TABLE.sub(lambda found: f"<!-- keys:{found[1]} -->\n{table(found[1])}<!-- end -->", PAGE.read_text())


def tables() -> list[str]:
    """The sections that the page has a table for."""
    return _TABLE.findall(PAGE.read_text())


def table(name: str) -> str:
    """One row per key of a section."""
    rows = [_row(key, field) for key, field in SECTIONS[name].model_fields.items()]
    return "| key | what it is | default | for instance |\n|---|---|---|---|\n" + "".join(rows)


def _row(key: str, field: FieldInfo) -> str:
    shown = f"`{key}: {flow(field.examples[0])}`" if field.examples else ""
    return f"| `{key}` | {field.description} | {_default(field)} | {shown} |\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or field.default in (None, (), {}):
        return ""
    return f"`{flow(field.default)}`"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f'"{text}"' if text == "*" or "${" in text else text


if __name__ == "__main__":
    PAGE.write_text(page())
